"""The real server, supervised: what it leaves behind, and how it comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import uvloop

from gateway.triton import server as server_module
from gateway.triton.channel import GRPCInferenceServiceStub, open_channel
from gateway.triton.codec import text
from gateway.triton.errors import TritonError, TritonUnavailable
from gateway.triton.infer import SequenceCall, stream_decoupled
from gateway.triton.process import Ports, free_ports
from gateway.triton.repository import Repository
from gateway.triton.server import EmbeddedTriton
from gateway.triton.stream import Drains
from tests.support.stack import (
    TEST_MODELS,
    is_alive,
    parent_of,
    shared_memory_of,
    skip_without_triton,
    wait_dead,
)

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("runnable")]


@pytest.fixture(scope="module")
def runnable() -> None:
    skip_without_triton()


class Events:
    """What the server said, and a way to wait for it."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, event: str) -> None:
        self.all.append(event)
        self._more.set()

    async def until(self, *parts: str, count: int = 1) -> None:
        """Until events with one of the parts were said `count` times."""
        try:
            async with asyncio.timeout(20):
                while sum(part in event for event in self.all for part in parts) < count:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            pytest.fail(f"{parts} did not happen; this did: {self.all}")


class Running:
    def __init__(self, triton: EmbeddedTriton, events: Events) -> None:
        self.triton = triton
        self.events = events
        self.channel = open_channel(triton.grpc)
        self.stub = GRPCInferenceServiceStub(self.channel)
        self.repository = Repository(self.channel)
        self.drains = Drains(deadline_s=2.0)

    def pids(self) -> list[int]:
        stubs = [pid for pids in self.triton.stub_pids().values() for pid in pids]
        return [self.triton.pid, parent_of(self.triton.pid), *stubs]

    async def made(self) -> int:
        """Speak one chunk; how many the voice has made in all."""
        stream = stream_decoupled(
            self.stub,
            "tts_tone",
            {"TEXT": text("1")},
            drains=self.drains,
            first_deadline_s=5,
            next_deadline_s=5,
        )
        return [int(outputs["MADE"][0]) async for outputs in stream][-1]


def existing(paths: set[Path]) -> set[Path]:
    return {path for path in paths if path.exists()}


def embedded(tmp_path: Path, *models: str, events: Events | None = None) -> EmbeddedTriton:
    return EmbeddedTriton(
        [TEST_MODELS], models=models, log_dir=tmp_path, on_event=events or Events(), exit_s=2
    )


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """A server of the test's own with a voice and a recogniser; checks that nothing is left of it."""
    events = Events()
    async with embedded(tmp_path, "tts_tone", "asr_count", events=events) as triton:
        await events.until("models ready: asr_count, tts_tone")
        its = Running(triton, events)
        yield its
        await its.drains.close()
        await its.channel.close()
        pids = its.pids()
        shared = shared_memory_of(*pids)
    assert not any(is_alive(pid) for pid in pids)
    assert not existing(shared)


async def test_a_stop_leaves_no_process_no_shared_memory_and_no_folder(tmp_path: Path) -> None:
    triton = embedded(tmp_path, "tts_tone", "asr_count")
    await triton.start()
    pids = [triton.pid, parent_of(triton.pid)] + [pid for pids in triton.stub_pids().values() for pid in pids]
    shared = shared_memory_of(*pids)
    folder = Path(os.readlink(f"/proc/{triton.pid}/cwd")).parent
    assert len(pids) == 4
    assert len(shared) == 2
    assert folder.name.startswith("parley-triton-")
    assert triton.log is not None
    assert "Started GRPCInferenceService" in triton.log.read_text()

    await triton.stop()

    assert not any(is_alive(pid) for pid in pids)
    assert not existing(shared)
    assert not existing({folder})
    assert triton.pid == 0
    assert triton.stub_pids() == {}
    assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task()] == []
    await triton.stop()  # again, harmless


def test_it_runs_under_uvloop_beside_a_busy_grpc(tmp_path: Path) -> None:
    async def main() -> None:
        async with embedded(tmp_path, "tts_tone") as triton:
            its = Running(triton, Events())
            assert await its.made() == 1
            async with embedded(tmp_path, "asr_count") as second:  # started while gRPC is in use
                assert second.log != triton.log
                assert await its.made() == 2
            await its.drains.close()
            await its.channel.close()

    uvloop.run(main())


async def test_a_killed_server_comes_back_on_its_ports_with_its_models(running: Running) -> None:
    triton = running.triton
    await running.repository.load("asr_count_decoupled")  # by a client, not by the supervisor
    await running.events.until("models ready: asr_count, asr_count_decoupled, tts_tone")
    address, pid = triton.grpc, triton.pid
    old = running.pids()
    shared = shared_memory_of(*[p for p in old if p != parent_of(pid)])
    busy = asyncio.create_task(drain_all(running, "2000"))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)

    with pytest.raises(TritonUnavailable):
        await busy
    await running.events.until("models ready: asr_count, asr_count_decoupled, tts_tone", count=2)

    assert triton.restarts == 1
    assert triton.grpc == address
    assert triton.pid != pid
    assert not any(is_alive(pid) for pid in old)
    assert not existing(shared)
    ready = {m.name for m in await running.repository.index(ready=True)}
    assert ready == {"tts_tone", "asr_count", "asr_count_decoupled"}
    assert await running.made() == 1


async def drain_all(running: Running, chunks: str) -> int:
    stream = stream_decoupled(
        running.stub,
        "tts_tone",
        {"TEXT": text(chunks)},
        drains=running.drains,
        first_deadline_s=5,
        next_deadline_s=5,
    )
    return len([outputs async for outputs in stream])


async def test_a_killed_model_process_is_replaced(running: Running) -> None:
    for model in ("tts_tone", "asr_count"):
        (pid,) = running.triton.stub_pids()[model]
        os.kill(pid, signal.SIGKILL)
        await running.events.until(f"{model} is back")
    assert await running.made() == 1
    assert await call(running).infer(np.zeros(8, np.float32), start=True, end=True, deadline_s=2)
    assert running.triton.restarts == 0


async def test_a_model_process_killed_in_mid_stream_comes_back(running: Running) -> None:
    stream = stream_decoupled(
        running.stub,
        "tts_tone",
        {"TEXT": text("1000")},
        drains=running.drains,
        first_deadline_s=5,
        next_deadline_s=0.5,
    )
    await anext(stream)
    (pid,) = running.triton.stub_pids()["tts_tone"]
    os.kill(pid, signal.SIGKILL)
    # Mostly the server says nothing, and the deadline is all there is. But a process that is killed while
    # it holds a lock in shared memory takes the whole server along, which is then started again.
    with pytest.raises(TritonUnavailable):
        async for _ in stream:
            pass
    await running.events.until("tts_tone is back", "Triton ended")
    if running.triton.restarts or not running.triton.pid:
        await running.events.until("models ready: asr_count, tts_tone", count=2)
    assert await running.made() == 1


async def test_an_unloaded_model_is_not_brought_back(running: Running) -> None:
    await running.repository.unload("asr_count")
    await running.events.until("models ready: tts_tone")
    os.kill(running.triton.pid, signal.SIGKILL)
    await running.events.until("models ready: tts_tone", count=2)
    assert {m.name for m in await running.repository.index(ready=True)} == {"tts_tone"}


async def test_a_killed_warden_takes_the_server_along_and_both_come_back(running: Running) -> None:
    server, warden, *stubs = running.pids()
    shared = shared_memory_of(server, *stubs)
    os.kill(warden, signal.SIGKILL)
    await running.events.until("models ready: asr_count, tts_tone", count=2)
    for pid in (server, *stubs):
        assert await asyncio.to_thread(wait_dead, pid)
    assert not existing(shared)
    assert await running.made() == 1


async def test_nothing_outlives_a_killed_owner(tmp_path: Path) -> None:
    script = f"""
        import asyncio
        from pathlib import Path
        from gateway.triton.server import EmbeddedTriton

        async def main():
            triton = EmbeddedTriton([Path({str(TEST_MODELS)!r})], models=["tts_tone"],
                                    log_dir=Path({str(tmp_path)!r}), exit_s=1)
            await triton.start()
            print(triton.pid, *triton.stub_pids()["tts_tone"], flush=True)
            await asyncio.Event().wait()

        asyncio.run(main())
    """
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(script), stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    pids = [int(word) for word in (await owner.stdout.readline()).split()]
    shared = shared_memory_of(*pids)
    warden = parent_of(pids[0])
    assert len(pids) == 2
    assert shared
    owner.kill()
    await owner.wait()
    for pid in (*pids, warden):
        assert await asyncio.to_thread(wait_dead, pid)
    assert not existing(shared)


@pytest.mark.parametrize("which", ["grpc", "http", "metrics"])
async def test_a_taken_port_is_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        free = free_ports()
        ports = Ports(**{"grpc": free.grpc, "http": free.http, "metrics": free.metrics, which: port})
        first = iter([ports])
        monkeypatch.setattr(server_module, "free_ports", lambda: next(first, None) or free_ports())
        async with embedded(tmp_path) as triton:
            assert str(port) not in (triton.grpc + triton.http + triton.metrics)


async def test_a_start_that_cannot_work_says_why(tmp_path: Path) -> None:
    with pytest.raises(TritonError, match="nowhere does not exist"):
        await EmbeddedTriton([tmp_path / "nowhere"], log_dir=tmp_path).start()
    file = tmp_path / "file"
    file.write_text("")
    triton = EmbeddedTriton([TEST_MODELS], log_dir=file / "logs")
    with pytest.raises(TritonError, match=r"does not start: exit status 1: .*Not a directory"):
        await triton.start()
    assert triton.pid == 0


async def test_a_broken_model_says_why_and_harms_no_other(tmp_path: Path) -> None:
    events = Events()
    async with embedded(tmp_path, "asr_broken", "asr_count", "nothing", events=events) as triton:
        assert triton.ready == {"asr_count"}
        assert triton.failed["asr_broken"] == "load asr_broken: RuntimeError: the dictionary is missing"
        assert "no such model" in triton.failed["nothing"]
        channel = open_channel(triton.grpc)
        repository = Repository(channel)
        states = {m.name: m for m in await repository.index()}
        assert states["asr_count"].state == "READY"
        assert states["asr_broken"].reason == "RuntimeError: the dictionary is missing"
        assert not await repository.is_ready("asr_broken")
        assert await repository.is_ready("asr_count")
        await channel.close()


def call(running: Running, *, decoupled: bool = False) -> SequenceCall:
    model = "asr_count_decoupled" if decoupled else "asr_count"
    return SequenceCall(running.stub, model, drains=running.drains, decoupled=decoupled)
