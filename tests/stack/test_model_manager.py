"""The model manager on the real server: broken models, dead processes, restarts, versions, two gateways."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from gateway.settings import ModelsSettings
from gateway.triton.catalogue.catalogue import Catalogue
from gateway.triton.channel import GRPCInferenceServiceStub, open_channel
from gateway.triton.codec import text
from gateway.triton.errors import ProcessDied, TritonError, TritonUnavailable
from gateway.triton.infer import SequenceCall, stream_decoupled
from gateway.triton.leases.client import TritonLeases
from gateway.triton.manager.events import Event, Kind
from gateway.triton.manager.manager import ModelManager
from gateway.triton.manager.types import InUse, Lease, LoadFailed, NotNow
from gateway.triton.manager.warm_up import WarmUp
from gateway.triton.repository import Repository
from gateway.triton.server import EmbeddedTriton
from gateway.triton.stream import Drains
from tests.support.stack import TEST_MODELS, skip_without_triton

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("runnable")]

_CHUNK = np.zeros(2_560, np.float32)
_FINE = "class TritonPythonModel:\n    def initialize(self, args):\n        "


@pytest.fixture(scope="module")
def runnable() -> None:
    skip_without_triton()


class House:
    """A server with a repository of its own, and managers as if each were a gateway's."""

    def __init__(self, folder: Path, *models: str, load_s: float = 60.0) -> None:
        self._load_s = load_s
        self.repository = folder / "models"
        self.repository.mkdir()
        self._logs = folder / "logs"
        for name in models:
            self.add(name)
        self.events: list[Event] = []
        self._more = asyncio.Event()
        self.drains = Drains(deadline_s=2.0)
        self._stack = AsyncExitStack()

    def add(self, name: str, *, like: str = "") -> Path:
        folder = self.repository / name
        shutil.copytree(TEST_MODELS / (like or name), folder, ignore=shutil.ignore_patterns("__pycache__"))
        config = folder / "config.pbtxt"
        config.write_text("".join(line for line in config.open() if not line.startswith("name:")))
        return folder

    def add_version(self, name: str, number: int) -> None:
        """All at once, as an operator should."""
        folder = self.repository / name
        coming = folder.parent / f".{name}.{number}"
        shutil.copytree(folder / "1", coming, ignore=shutil.ignore_patterns("__pycache__"))
        coming.rename(folder / str(number))

    def kinds(self, model: str) -> list[Kind]:
        return [one.kind for one in self.events if one.model == model]

    async def until(self, model: str, kind: Kind, count: int) -> None:
        async with asyncio.timeout(10):
            while self.kinds(model).count(kind) < count:
                self._more.clear()
                await self._more.wait()

    def _happened(self, event: Event) -> None:
        self.events.append(event)
        self._more.set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[House]:
        async with self._stack:
            self.triton = await self._stack.enter_async_context(
                EmbeddedTriton([self.repository], log_dir=self._logs, exit_s=2, load_s=self._load_s)
            )
            channel = open_channel(self.triton.grpc)
            self._stack.push_async_callback(channel.close)
            self._stack.push_async_callback(self.drains.close)
            self.stub = GRPCInferenceServiceStub(channel)
            yield self

    async def manager(
        self, label: str = "one", *, keeper: bool = True, **settings: float | str
    ) -> ModelManager:
        channel = open_channel(self.triton.grpc)
        self._stack.push_async_callback(channel.close)
        repository = Repository(channel)
        leases = TritonLeases(channel, label=label, lease_s=5.0)
        self._stack.push_async_callback(leases.close)
        manager = ModelManager(
            repository, leases, Catalogue([self.repository], repository),
            ModelsSettings(**({"min_residency_s": 0.0, "lease_s": 5.0} | settings)),
            warm_up=WarmUp(channel), keeper=keeper, on_event=self._happened,
        )  # fmt: skip
        self._stack.push_async_callback(manager.close)
        await manager.start()
        return manager

    def sequence(self, lease: Lease) -> SequenceCall:
        return SequenceCall(
            self.stub, lease.info.name, drains=self.drains, decoupled=lease.info.decoupled,
            batched=lease.info.max_batch_size > 0, version=lease.version,
        )  # fmt: skip

    async def speak(self, lease: Lease, words: str = "It works.") -> set[int]:
        """The versions that the answers came from."""
        answers = stream_decoupled(
            self.stub, lease.info.name, {"TEXT": text(words)}, version=lease.version,
            drains=self.drains, first_deadline_s=5.0, next_deadline_s=5.0,
        )  # fmt: skip
        return {int(answer["VERSION"][0]) async for answer in answers}


async def test_broken_models_leave_the_others_ready_and_say_why(tmp_path: Path) -> None:
    house = House(tmp_path, "asr_light", "tts_light")
    broken = {
        "tts_syntax": "def broken(:\n",
        "tts_file": _FINE + "open('/nowhere/weights.bin')\n",
        "tts_exit": _FINE + "__import__('os')._exit(3)\n",
        "tts_hang": _FINE + "__import__('time').sleep(5)\n",
        "tts_rude": _FINE + "raise SystemExit('no licence')\n",
    }
    for name, code in broken.items():
        (house.add(name, like="tts_light") / "1" / "model.py").write_text(code)
    (house.add("tts_empty", like="tts_light") / "1" / "model.py").unlink()
    dtype = house.add("tts_dtype", like="tts_light") / "config.pbtxt"
    dtype.write_text(dtype.read_text().replace("TYPE_FP32", "TYPE_INT16"))
    async with house.open():
        manager = await house.manager(load_s=4.0, max_loads=4, tts="tts_light")
        names = [*broken, "tts_empty", "tts_dtype"]
        results = await asyncio.gather(*(manager.load(name) for name in names), return_exceptions=True)
        said = {name: str(result) for name, result in zip(names, results, strict=True)}
        assert all(isinstance(result, LoadFailed) for result in results), said
        assert all(name in text and "\n" not in text for name, text in said.items())
        assert "invalid syntax" in said["tts_syntax"]
        assert "weights.bin" in said["tts_file"]
        assert "model.py" in said["tts_empty"]
        assert "tts_hang did not load within 4 s" in said["tts_hang"]
        assert "no licence" in said["tts_rude"]
        assert "INT16" in said["tts_dtype"]
        assert [one.name for one in manager.resident()] == ["asr_light", "tts_light"]
        with await manager.lease("tts_light") as lease:
            assert await house.speak(lease) == {1}
        assert set(house.triton.stub_pids()) <= {"asr_light", "tts_light", "tts_hang", "parley_leases"}


async def test_models_that_hang_do_not_keep_the_threads_that_load_others(tmp_path: Path) -> None:
    house = House(tmp_path, "tts_light", load_s=1.0)
    names = [f"tts_hang_{number}" for number in range(4)]  # as many as Triton loads at a time
    for name in names:
        code = _FINE + "__import__('time').sleep(1_000)\n"
        (house.add(name, like="tts_light") / "1" / "model.py").write_text(code)
    async with house.open():
        manager = await house.manager(load_s=1.0, max_loads=4, asr="none", tts="none")
        results = await asyncio.gather(*(manager.load(name) for name in names), return_exceptions=True)
        assert all("did not load within 1 s" in str(one) for one in results), results
        patient = await house.manager("two", keeper=False, load_s=20.0)
        await patient.load("tts_light")
        assert set(house.triton.stub_pids()) == {"tts_light", "parley_leases"}


async def test_a_dead_process_is_repaired_and_a_restarted_server_reconciled(tmp_path: Path) -> None:
    house = House(tmp_path, "asr_light", "tts_light")
    async with house.open():
        manager = await house.manager()
        with await manager.lease("tts_light") as lease:
            # The server's own supervisor mends too: whoever is first, it is mended.
            os.kill(house.triton.stub_pids()["tts_light"][0], signal.SIGKILL)
            assert await manager.suspect("tts_light", ProcessDied("its process died"))
            assert await house.speak(lease) == {1}
            os.kill(house.triton.pid, signal.SIGKILL)
            await manager.suspect("tts_light", TritonUnavailable("the connection was cut"))
            async with asyncio.timeout(20):
                while True:
                    try:
                        await manager.status()
                        break
                    except TritonError:
                        await asyncio.sleep(0.1)  # nothing tells a client that a server is back
            with await manager.lease("tts_light") as again, await manager.lease("asr_light"):
                assert await house.speak(again) == {1}
        assert [one.name for one in manager.resident()] == ["asr_light", "tts_light"]


async def test_versions_come_and_go_under_an_open_sequence_and_an_open_stream(tmp_path: Path) -> None:
    house = House(tmp_path, "asr_light", "tts_light")
    async with house.open():
        manager = await house.manager()
        for number in (2, 1):
            asr, tts = await manager.lease("asr_light"), await manager.lease("tts_light")
            call = house.sequence(asr)
            first = await call.infer(_CHUNK, start=True, deadline_s=5.0)
            speaking = asyncio.create_task(house.speak(tts, "A sentence that takes its time. " * 2))
            for name in ("asr_light", "tts_light"):
                if number == 2:
                    house.add_version(name, number)
                    await manager.load(name)
                else:
                    await manager.load(name, version="1")
            new = await manager.lease("asr_light")
            assert new.version == str(number)
            fresh = house.sequence(new)
            answer = await fresh.infer(_CHUNK, start=True, end=True, deadline_s=5.0)
            assert int(answer["VERSION"][0]) == number
            last = await call.infer(_CHUNK, end=True, deadline_s=5.0)
            assert first["VERSION"][0] == last["VERSION"][0] == int(asr.version)
            assert await speaking == {int(tts.version)}
            for lease in (asr, tts, new):
                lease.release()
            await house.until("asr_light", Kind.ROLLED, 3 - number)
        assert not any(kind is Kind.ROLL_FAILED for kind in house.kinds("asr_light"))


async def test_two_gateways_race_lease_against_unload(tmp_path: Path) -> None:
    house = House(tmp_path, "asr_light", "tts_light")
    house.add("tts_third", like="tts_light")
    async with house.open():
        one = await house.manager("one", drain_s=0.0)
        two = await house.manager("two", keeper=False)
        spoken = refused = gone = 0
        for turn in range(4):
            await two.load("tts_third")
            await asyncio.sleep(0.0005 * turn)

            async def speak() -> bool:
                with await two.lease("tts_third") as lease:
                    assert await house.speak(lease, "Yes.") == {1}
                return True

            result, unloaded = await asyncio.gather(speak(), one.unload("tts_third"), return_exceptions=True)
            spoken += result is True
            refused += isinstance(unloaded, InUse | NotNow)
            gone += unloaded is None
        assert (spoken, refused + gone) == (4, 4)
