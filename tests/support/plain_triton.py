"""A `tritonserver` as somebody starts it by hand: the wheel's binary, a plain command line, no part of Parley."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc

from gateway.triton.host import find_wheel, server_environment

_START_S = 30.0


@contextmanager
def plain_triton(
    folder: Path,
    repository: Path,
    *arguments: str,
    load: Sequence[str] = (),
    credentials: grpc.ChannelCredentials | None = None,
) -> Iterator[str]:
    """Its gRPC address. credentials: where the arguments have it speak TLS. folder: scratch space of its own. Ends it, and waits for that."""
    wheel = find_wheel()
    assert wheel is not None
    backends, empty = folder / "backends", folder / "empty"
    shutil.copytree(wheel.python_backend, backends / "python")
    shutil.copy(wheel.stub, backends / "python")
    empty.mkdir()
    ports = _free_ports(2)
    address = f"127.0.0.1:{ports[0]}"
    command = [
        str(wheel.server), f"--model-repository={repository}", f"--backend-directory={backends}",
        "--model-control-mode=explicit", *(f"--load-model={name}" for name in load),
        f"--grpc-port={ports[0]}", f"--http-port={ports[1]}", "--allow-metrics=false", "--exit-timeout-secs=2", *arguments,
    ]  # fmt: skip
    with (folder / "triton.log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=empty,
            env=server_environment(wheel, folder),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait(address, server, folder / "triton.log", credentials)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(10)
        finally:
            server.kill()


def _wait(
    address: str, server: subprocess.Popen[bytes], log: Path, credentials: grpc.ChannelCredentials | None
) -> None:
    """Its port opens when the models of the command line are loaded."""
    options = [("grpc.max_reconnect_backoff_ms", 100)]
    dialled = (
        grpc.insecure_channel(address, options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options)
    )
    with dialled as channel:
        try:
            grpc.channel_ready_future(channel).result(_START_S)
        except grpc.FutureTimeoutError:
            raise AssertionError(f"no answer ({server.poll()}): {log.read_text()}") from None


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
