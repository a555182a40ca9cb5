"""Two gateways, a speech service and an operator on one real Triton: models come and go, and nobody's speech fails."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest

from gateway.protocol import tts_pb2 as pb
from gateway.protocol.tts_pb2_grpc import TtsStub
from gateway.riva.server import SpeechServer
from gateway.settings import ModelsSettings, TritonSettings, TtsApiSettings, TtsSettings
from gateway.speak.hold import Wish
from gateway.speak.triton_tts import TritonSynthesizer, TritonVoice
from gateway.triton.codec import text
from gateway.triton.errors import TritonError
from gateway.triton.fleet.everywhere import Everywhere
from gateway.triton.fleet.hold import Hold
from gateway.triton.leases import holder
from gateway.triton.manager.events import Event, Kind
from gateway.triton.manager.manager import ModelManager
from gateway.triton.manager.types import InUse, NotNow
from gateway.triton.routing.choose import Want
from tests.support.stack import TEST_MODELS, Stack, skip_without_triton

pytestmark = pytest.mark.stack

LIGHT = Wish(model="tts_light")
CHUNK = np.zeros(2_560, np.float32)
RACE_S = 8.0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live") / "models"
    for name in ("asr_light", "tts_light", "tts_tone"):
        shutil.copytree(TEST_MODELS / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def triton(repository: Path) -> Iterator[str]:
    skip_without_triton()
    with Stack((), repositories=(repository,)) as running:
        yield running.triton.grpc


class Site:
    """What shares the Triton, each with leases of its own as if it were a process."""

    def __init__(self, triton: str, repository: Path) -> None:
        self.triton, self.repository = triton, repository
        self.events: list[tuple[float, Event]] = []
        """Of the speech service, with the event loop's time."""
        self.stack = AsyncExitStack()

    def _note(self, event: Event) -> None:
        self.events.append((asyncio.get_running_loop().time(), event))

    async def service(self, **models: Any) -> SpeechServer:
        server = SpeechServer(
            TritonSettings(uri=self.triton, repositories=(str(self.repository),)),
            self._models(asr="asr_light", tts="tts_tone", **models),
            "127.0.0.1:0",
            api=TtsApiSettings(calibrate=False),
            on_event=self._note,
        )
        self.address = await server.start()
        self.stack.push_async_callback(server.stop, 0.0)
        return server

    def gateway(self, **models: Any) -> TritonSynthesizer:
        gateway = TritonSynthesizer(
            TtsSettings(uri=self.triton), self._models(**models), repositories=(self.repository,)
        )
        self.stack.push_async_callback(gateway.close)
        return gateway

    def _models(self, **models: Any) -> ModelsSettings:
        return ModelsSettings(**({"min_residency_s": 0.0, "lease_s": 3.0} | models))


@pytest.fixture
async def site(triton: str, repository: Path) -> AsyncIterator[Site]:
    its = Site(triton, repository)
    async with its.stack:
        yield its


def manager_of(server: SpeechServer) -> ModelManager:
    (manager,) = server.fleet.managers().values()
    return manager


async def versions(hold: Hold, ms: int, begun: asyncio.Event | None = None) -> set[int]:
    """begun: set with the first sound."""
    await hold.take()
    words = {"TEXT": text(f"tone 500 for {ms}")}
    found = set()
    async for part in hold.stream(words, first_deadline_s=5.0, next_deadline_s=5.0):
        found.add(int(part["VERSION"][0]))
        if begun is not None:
            begun.set()
    return found


async def heard(voice: TritonVoice, ms: int) -> int:
    """ms of audio."""
    return (
        sum([len(chunk.pcm) for chunk in [one async for one in voice.synthesize(f"tone 500 for {ms}")]]) // 32
    )


async def test_sessions_race_an_operator_and_no_sentence_fails(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holder, "_LINGER_S", 0.02)  # so that an unload has its chance
    desk = Everywhere((await site.service(drain_s=0.0)).fleet)
    loop = asyncio.get_running_loop()
    end = loop.time() + RACE_S
    held: list[tuple[float, float]] = []
    told: list[str] = []

    async def sessions(gateway: TritonSynthesizer, seed: int) -> int:
        dice, count = random.Random(seed), 0
        while loop.time() < end:
            voice = gateway.hold(LIGHT, lambda code, message: told.append(message))
            try:
                await voice.prepare()
                since = loop.time()
                for _ in range(dice.randint(1, 3)):
                    assert await heard(voice, 200) == 200
                    count += 1
                held.append((since, loop.time()))
            finally:
                voice.release()
            await asyncio.sleep(dice.choice((0.0, 0.02, 0.1, 0.3)))
        return count

    async def operator() -> tuple[int, int]:
        unloaded = refused = 0
        dice = random.Random(3)
        while loop.time() < end:
            try:
                await desk.unload("tts_light")
                unloaded += 1
            except (InUse, NotNow):
                refused += 1
            await asyncio.sleep(dice.choice((0.0, 0.05, 0.15)))
        return unloaded, refused

    gateways = [site.gateway(fallback=False) for _ in range(2)]
    speaking = [asyncio.create_task(sessions(gateway, seed)) for seed, gateway in enumerate(gateways)]
    unloaded, refused = await operator()
    counts = await asyncio.gather(*speaking)
    went = [
        at for at, event in site.events if event.model == "tts_light" and event.kind in (Kind.DRAINED, Kind.UNLOADED)
    ]  # fmt: skip
    loads = [event.kind for _, event in site.events].count(Kind.LOADED)
    print(f"sentences {counts}, unloads {unloaded}, refused {refused}, loads by the service {loads}")
    assert not [at for at in went for since, until in held if since < at < until], (
        "unloaded while it was held"
    )
    assert min(counts) >= 3
    assert unloaded >= 2
    assert unloaded + refused >= 3
    assert told == []


async def test_versions_are_rolled_in_and_back_under_sentences_and_utterances(site: Site) -> None:
    service = await site.service()
    manager = manager_of(service)
    gateways = [site.gateway() for _ in range(2)]
    for gateway in gateways:
        await gateway.fleet.start()
    await manager.load("tts_light")
    speaking = [gateway.fleet.hold(Want("tts", model="tts_light")) for gateway in gateways]
    listening = service.fleet.hold(Want("asr"))
    for name in ("asr_light", "tts_light"):
        folder = site.repository / name
        shutil.copytree(
            folder / "1", site.repository / f".{name}", ignore=shutil.ignore_patterns("__pycache__")
        )
        (site.repository / f".{name}").rename(folder / "2")
    for before, after in ((1, 2), (2, 1)):
        begun = [asyncio.Event() for _ in speaking]
        sentences = [
            asyncio.create_task(versions(hold, 45_000, its))
            for hold, its in zip(speaking, begun, strict=True)
        ]
        await listening.take()
        old = await listening.sequence()
        answers = [await old.infer(CHUNK, start=True, deadline_s=5.0)]
        for its in begun:
            await asyncio.wait_for(its.wait(), 5.0)
        await asyncio.gather(*(manager.load(name, version=str(after)) for name in ("asr_light", "tts_light")))
        for hold in speaking:
            # A process that uses the old version hears of the new one with its next word to the lease table.
            async with asyncio.timeout(5):
                while await versions(hold, 100) != {after}:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        assert not any(sentence.done() for sentence in sentences), "they were to be spoken meanwhile"
        new = await listening.sequence()
        fresh = await new.infer(CHUNK, start=True, end=True, deadline_s=5.0)
        answers.append(await old.infer(CHUNK, end=True, deadline_s=5.0))
        assert int(fresh["VERSION"].ravel()[0]) == after
        assert {int(answer["VERSION"].ravel()[0]) for answer in answers} == {before}
        assert await asyncio.gather(*sentences) == [{before}, {before}]
        async with asyncio.timeout(10):
            while {one.versions for one in manager.seen() if one.info.name != "tts_tone"} != {(str(after),)}:  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # the old ones have run out
    for hold in (*speaking, listening):
        hold.release()


async def test_after_a_forced_unload_the_next_sentence_is_spoken(site: Site) -> None:
    service, gateway = await site.service(), site.gateway(fallback=False)
    voice = gateway.hold(LIGHT, lambda code, message: None)
    assert await heard(voice, 100) == 100
    sentence = asyncio.create_task(heard(voice, 4_000))
    await asyncio.sleep(0.1)
    await manager_of(service).unload("tts_light", force=True)
    await asyncio.wait({sentence})
    assert sentence.exception() is None, "Triton unloads a model when its requests are over"
    assert await heard(voice, 300) == 300
    voice.release()


async def test_the_tts_api_loads_and_unloads_what_nobody_holds(site: Site) -> None:
    service = await site.service(drain_s=0.2, min_residency_s=1.0)
    await manager_of(service).unload("tts_light", force=True)
    gateway = site.gateway()
    async with grpc.aio.insecure_channel(site.address) as channel:
        tts = TtsStub(channel)  # type: ignore[no-untyped-call]

        async def state(name: str) -> tuple[int, int]:
            listed = await tts.ListModels(pb.ListModelsRequest())
            (one,) = [model for model in listed.models if model.name == name]
            return one.state, one.leases

        async def unload() -> str:
            try:
                await tts.UnloadModel(pb.UnloadModelRequest(model="tts_light"))
            except grpc.aio.AioRpcError as error:
                return f"{error.code().name}: {error.details()}"
            return ""

        assert await state("tts_light") == (pb.ABSENT, 0)
        progress = [one async for one in tts.LoadModel(pb.LoadModelRequest(model="tts_light"))]
        assert (progress[0].state, progress[-1].state) == (pb.LOADING, pb.READY)
        assert "a moment ago" in (young := await unload())
        assert young.startswith("FAILED_PRECONDITION: ")
        await asyncio.sleep(1.0)
        voice = gateway.hold(LIGHT, lambda code, message: None)
        await voice.prepare()
        session = await tts.StartSession(pb.StartSessionRequest(model="tts_light"))
        assert await state("tts_light") == (pb.READY, 2)
        assert "in use by 2 sessions" in await unload()
        await tts.EndSession(pb.EndSessionRequest(session_id=session.session_id))
        assert "in use by" in await unload()
        voice.release()
        await asyncio.sleep(1.2)
        assert await unload() == ""
        assert await state("tts_light") == (pb.ABSENT, 0)
    with pytest.raises(TritonError):
        await Everywhere(service.fleet).unload("tts_gone")
