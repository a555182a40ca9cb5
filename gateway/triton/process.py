"""One run of `tritonserver` under its warden: spawn, events, end. No policy; see server.py."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.triton.catalogue.folder import BadConfig
from gateway.triton.catalogue.repositories import Reading, as_argument, is_url
from gateway.triton.host import STUB, Wheel, server_environment
from gateway.triton.model_info import is_complete

_WARDEN = Path(__file__).with_name("warden.py")
OUR_BACKENDS = Path(__file__).parents[2] / "triton" / "backends"
"""Python-based backends that are offered beside the wheel's own."""

_RESTRICTABLE = ("grpc-restricted-protocol", "http-restricted-api")


@dataclass(frozen=True, slots=True)
class Ports:
    grpc: int
    http: int
    metrics: int


def free_ports() -> Ports:
    """Three ports that are free now; held together so that they differ."""
    sockets = [socket.socket() for _ in range(3)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return Ports(*(one.getsockname()[1] for one in sockets))
    finally:
        for one in sockets:
            one.close()


@dataclass(frozen=True, slots=True)
class Stub:
    """A Python process of a model: one per instance, and a passing one that completes a config."""

    model: str
    instance: str
    """"asr_x_0_0", unique among the living; the model's own name for the one that completes a config."""


@dataclass(frozen=True, slots=True)
class Ended:
    status: int
    """Exit status; negative: the signal that killed it."""
    reason: str
    """The last error line of its log, or ""."""

    def __str__(self) -> str:
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        return f"exit status {self.status}" + (f": {self.reason}" if self.reason else "")


class ServerProcess:
    """Made by `spawn`; over when `ended` is done."""

    def __init__(
        self, warden: subprocess.Popen[bytes], run_dir: Path, on_stubs: Callable[[Stub | None], None]
    ) -> None:
        self.pid = 0
        """Of tritonserver itself."""
        self.log: Path | None = None
        self.stubs: dict[int, Stub] = {}
        """Living Python stubs by pid."""
        self._warden = warden
        self._run_dir = run_dir
        self._on_stubs = on_stubs
        self._shm: list[str] = []
        self._started = asyncio.Event()
        self.ended: asyncio.Task[Ended] = asyncio.create_task(self._listen(), name="triton warden")

    @classmethod
    async def spawn(
        cls,
        wheel: Wheel,
        *,
        repositories: Sequence[Path | str],
        ports: Ports,
        log_dir: Path,
        exit_s: int,
        auto_complete: bool,
        restricted_key: str,
        on_stubs: Callable[[Stub | None], None],
    ) -> ServerProcess:
        """restricted_key: "key=value" that callers of the model repository API must send, or ""; the key in
            lower case, as gRPC sends it and Triton looks for it.
        on_stubs: called with each Python stub that died or ended, and with None for a new one.
        """

        def launch() -> tuple[subprocess.Popen[bytes], Path]:
            run_dir = _make_run_dir(wheel)
            order = {
                "command": _command(
                    wheel, run_dir, repositories, ports, exit_s, auto_complete, restricted_key
                ),
                "run_dir": str(run_dir),
                "log_dir": str(log_dir),
                "grace_s": exit_s + 3,
            }
            # Not the loop's own subprocess: uvloop's forks, and runs gRPC's fork handlers in this
            # process; Popen without preexec_fn does neither.
            warden = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_WARDEN), json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=run_dir / "cwd",
                env=server_environment(wheel, run_dir / "tmp", cloud=any(map(is_url, repositories))),
                start_new_session=True,
                bufsize=0,
            )
            return warden, run_dir

        launching = asyncio.create_task(asyncio.to_thread(launch))
        try:
            warden, run_dir = await asyncio.shield(launching)
        except asyncio.CancelledError:
            warden, run_dir = await launching
            cls(warden, run_dir, on_stubs).end(at_once=True)
            raise
        process = cls(warden, run_dir, on_stubs)
        try:
            await process._started.wait()
        except asyncio.CancelledError:
            process.end(at_once=True)
            raise
        return process

    def end(self, *, at_once: bool = False) -> None:
        """Ask for the end; `ended` says when everything is gone. at_once: no grace for requests."""
        pipe = self._warden.stdin
        if pipe is not None and not pipe.closed:
            try:
                if at_once:
                    pipe.write(b"kill\n")  # a few bytes into an empty pipe: never waits
                pipe.close()
            except BrokenPipeError:
                pass

    def end_stub(self, pid: int) -> bool:
        """SIGKILL for a Python stub, which then does not count as lost. False: it is gone already."""
        if self.stubs.pop(pid, None) is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def abandon(self) -> None:
        """Last resort when the warden does not answer: SIGKILL for it, and by that for the server."""
        self._kill(self._warden.pid)

    async def _listen(self) -> Ended:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._warden.stdout
        )
        ended: Ended | None = None
        failure = Ended(-signal.SIGKILL, "")
        try:
            async for raw in reader:
                word, _, rest = raw.decode("utf-8", "replace").rstrip("\n").partition(" ")
                if word == "server":
                    self.pid = int(rest)
                    self._started.set()
                elif word == "log":
                    self.log = Path(rest)
                elif word == "shm":
                    self._shm.append(rest)
                elif word == "stub":
                    pid, instance, file = rest.split("\t", 2)
                    self.stubs[int(pid)] = Stub(_model_of(instance, Path(file).parent.parent.name), instance)
                    self._on_stubs(None)
                elif word == "gone":
                    self._on_stubs(self.stubs.pop(int(rest), None))
                elif word == "exit":
                    status, _, reason = rest.partition(" ")
                    ended = Ended(int(status), reason)
                elif word == "failed":
                    failure = Ended(1, rest)
            if ended is None:  # the warden ended first, and the server with it: do its work
                self._kill(self.pid)
                await asyncio.to_thread(self._sweep)
            await asyncio.to_thread(self._warden.wait)
        finally:
            transport.close()
            self.end()
            self.stubs.clear()
            self._started.set()
        return ended or failure

    def _kill(self, group: int) -> None:
        try:
            if group:
                os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _sweep(self) -> None:
        for name in self._shm:
            Path(name).unlink(missing_ok=True)
        shutil.rmtree(self._run_dir, ignore_errors=True)


def _model_of(instance: str, folder: str) -> str:
    """The folder's name; of a model that came as files in a request, whose folder is a passing one, its own."""
    return folder if instance.startswith(folder) else instance.rsplit("_", 2)[0]


def _make_run_dir(wheel: Wheel) -> Path:
    """A private folder for one run: the backends, an empty working directory, scratch space.

    The working directory must be empty: the stub puts it first on its module path, so that a
    `model.py` in it would be run in place of every model's.
    """
    run_dir = Path(tempfile.mkdtemp(prefix="parley-triton-"))
    for name in ("cwd", "tmp", "backends/python"):
        (run_dir / name).mkdir(parents=True)
    python = run_dir / "backends" / "python"
    for part in wheel.python_backend.iterdir():
        if part.is_file():
            shutil.copy(part, python)  # a link would "escape the backend directory" for Triton
    if os.statvfs(run_dir).f_flag & os.ST_NOEXEC:
        (python / STUB).symlink_to(wheel.stub)
    else:  # Triton changes the mode of a stub it cannot start: let that be a copy
        shutil.copy(wheel.stub, python / STUB)
    if OUR_BACKENDS.is_dir():
        for backend in OUR_BACKENDS.iterdir():
            if (backend / "model.py").is_file():
                (run_dir / "backends" / backend.name).symlink_to(backend)
    return run_dir


def _command(
    wheel: Wheel,
    run_dir: Path,
    repositories: Sequence[Path | str],
    ports: Ports,
    exit_s: int,
    auto_complete: bool,
    restricted_key: str,
) -> list[str]:
    local = "127.0.0.1"
    return [
        str(wheel.server),
        *(f"--model-repository={as_argument(one)}" for one in repositories),
        f"--backend-directory={run_dir / 'backends'}",
        "--model-control-mode=explicit",
        "--strict-readiness=false",
        *([] if auto_complete else ["--disable-auto-complete-config"]),
        f"--grpc-address={local}", f"--grpc-port={ports.grpc}",
        f"--http-address={local}", f"--http-port={ports.http}",
        f"--metrics-address={local}", f"--metrics-port={ports.metrics}",
        "--allow-gpu-metrics=false",
        # The server does not end before the metrics thread has slept its interval out (2 s by default).
        "--metrics-interval-ms=200",
        "--backend-config=python,shm-default-byte-size=4194304",
        "--backend-config=python,thread-pool-size=4",
        # Clients may ping an open call more often than a stock server likes.
        "--grpc-http2-min-recv-ping-interval-without-data=5000",
        "--grpc-http2-max-ping-strikes=0",
        f"--exit-timeout-secs={exit_s}",
        *(f"--{api}=model-repository:{restricted_key}" for api in _RESTRICTABLE if restricted_key),
    ]  # fmt: skip


def needs_auto_complete(reading: Reading) -> bool:
    """Whether some model's config leaves things out; one that cannot be read is not loaded anyhow."""
    for folder in reading.folders.values():
        try:
            if not is_complete(folder.config()):
                return True
        except BadConfig:
            pass
    return False
