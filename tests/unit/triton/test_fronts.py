"""Several Riva fronts, real gRPC servers each: who gets calls while fronts fail, rest, vanish and come back."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.listen.asr import AsrError, Hypothesis
from gateway.listen.riva_asr import RivaRecognizer
from gateway.listen.riva_file import RivaTranscriber
from gateway.listen.transcriber import Wanted
from gateway.listen.utterance import Utterance
from gateway.settings import AsrSettings, TtsSettings
from gateway.speak.riva_tts import RivaSynthesizer
from gateway.triton.errors import TritonError
from gateway.triton.routing import servers as servers_module
from tests.support.fronts import Front, port_of_all, until

WORD = b"\1\0" * 1_600


class World:
    """Fronts behind one name, and a recogniser that is given the name."""

    def __init__(self, count: int, *, with_health: bool = True) -> None:
        self.port = port_of_all(count)
        self.fronts = [Front(f"127.0.0.{n + 1}", self.port, with_health=with_health) for n in range(count)]
        self.named = [front.host for front in self.fronts]
        self.resolved = 0
        self.asr = RivaRecognizer(AsrSettings(uri=f"speech.voice.svc:{self.port}"), resolve=self.resolve)
        self.tts = RivaSynthesizer(
            TtsSettings(kind="riva", uri=f"dns:///speech.voice.svc:{self.port}"), resolve=self.resolve
        )

    async def resolve(self, host: str, port: int) -> list[str]:
        assert (host, port) == ("speech.voice.svc", self.port)
        self.resolved += 1
        return list(self.named)

    def front(self, address: str) -> Front:
        return next(front for front in self.fronts if front.address == address)

    async def until(self, condition: Callable[[], bool]) -> None:
        await until(self.asr._fronts, condition)

    def users(self) -> dict[str, int]:
        return {server.address: server.users for server in self.asr._fronts.servers}


@asynccontextmanager
async def running(count: int, **options: Any) -> AsyncIterator[World]:
    world = World(count, **options)
    try:
        for front in world.fronts:
            await front.start()
        yield world
    finally:
        await world.asr.close()
        await world.tts.close()
        for front in world.fronts:
            await front.kill()
    left = [
        task for task in asyncio.all_tasks() if task is not asyncio.current_task() and "gateway" in repr(task)
    ]
    assert not left


class Call:
    """One utterance that goes on until it is told to end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._audio: asyncio.Queue[bytes] = asyncio.Queue()
        self.answered = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> str:
        async def audio() -> AsyncIterator[bytes]:
            while piece := await self._audio.get():
                yield piece

        async with aclosing(self._world.asr.recognize(audio(), language="en-US")) as heard:
            async for one in heard:
                self.answered.set()
                if one.final:
                    return one.text
        raise AssertionError("no final")

    async def begin(self) -> Call:
        self._audio.put_nowait(WORD)
        waiting = asyncio.create_task(self.answered.wait())
        await asyncio.wait({waiting, self.task}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return self

    async def end(self) -> str:
        self._audio.put_nowait(WORD)
        self._audio.put_nowait(b"")
        return await self.task


async def begin(world: World, count: int = 1) -> list[Call]:
    return list(await asyncio.gather(*(Call(world).begin() for _ in range(count))))


async def end(calls: list[Call]) -> None:
    assert [await call.end() for call in calls] == ["w w"] * len(calls)


async def test_sixty_four_sessions_are_spread_evenly_over_four() -> None:
    async with running(4) as world:
        calls = await begin(world, 64)
        assert [front.open for front in world.fronts] == [16] * 4
        await end(calls[:32])
        await end(await begin(world, 3))
        more = await begin(world, 32)
        assert [front.open for front in world.fronts] == [16] * 4
        await end(calls[32:] + more)
        assert world.resolved == 1
        assert set(world.users().values()) == {0}


async def test_one_that_dies_is_left_out_and_comes_back() -> None:
    async with running(3) as world:
        await end(await begin(world, 3))
        dead = world.fronts[1]
        await dead.kill()
        await world.until(lambda: not lost(world, dead).takes_calls)
        before = dead.taken
        await end(await begin(world, 12))
        assert dead.taken == before
        await dead.start()
        await world.until(lambda: lost(world, dead).takes_calls)
        await end(await begin(world, 12))
        assert dead.taken > before


def lost(world: World, front: Front) -> Any:
    return next(server for server in world.asr._fronts.servers if server.address == front.address)


async def test_one_that_does_not_serve_keeps_its_calls_and_gets_no_new_ones() -> None:
    async with running(2) as world:
        old = await begin(world, 4)
        resting, other = world.fronts
        await resting.says(serving=False)
        await world.until(lambda: lost(world, resting).resting)
        new = await begin(world, 6)
        assert (resting.open, other.open) == (2, 8)
        await end(old)
        await resting.says(serving=True)
        await world.until(lambda: not lost(world, resting).resting)
        more = await begin(world, 4)
        assert resting.open == 4
        await end(new + more)


async def test_when_none_serves_one_sentence_says_so_and_a_call_waits_in_its_retries() -> None:
    async with running(2) as world:
        await end(await begin(world, 2))
        for front in world.fronts:
            await front.says(serving=False)
        await world.until(lambda: all(server.resting for server in world.asr._fronts.servers))
        with pytest.raises(AsrError, match="no speech recogniser answers at speech") as caught:
            await world.asr.check()
        assert caught.value.retryable
        retried = asyncio.Event()
        utterance = said_whole(world, lambda why: retried.set())
        running_it = asyncio.create_task(utterance.run())
        await retried.wait()
        await world.fronts[1].says(serving=True)
        assert (await utterance.final()).text == "w w w"
        await running_it


def said_whole(world: World, on_retry: Callable[[str], None]) -> Utterance:
    utterance = Utterance(
        world.asr, AsrSettings(), language="en-US", on_partial=lambda heard: None, on_retry=on_retry
    )
    for _ in range(3):
        utterance.feed(WORD)
    utterance.end()
    return utterance


async def test_an_utterance_whose_front_dies_is_replayed_on_another() -> None:
    async with running(2) as world:
        partial = asyncio.Event()
        retries: list[str] = []

        def heard(hypothesis: Hypothesis) -> None:
            partial.set()

        utterance = Utterance(
            world.asr, AsrSettings(), language="en-US", on_partial=heard, on_retry=retries.append
        )
        task = asyncio.create_task(utterance.run())
        for _ in range(4):
            utterance.feed(WORD)
        await partial.wait()
        had = next(front for front in world.fronts if front.open)
        await had.kill()
        for _ in range(2):
            utterance.feed(WORD)
        utterance.end()
        assert (await utterance.final()).text == "w w w w w w"
        await task
        assert len(retries) == 1
        assert Counter(front.taken for front in world.fronts) == {1: 2}


async def test_a_sentence_that_is_refused_is_spoken_by_another() -> None:
    async with running(3) as world:
        for front in world.fronts[:2]:
            front.refuses = True
        for _ in range(6):
            chunks = [chunk async for chunk in world.tts.synthesize("hello")]
            assert len(chunks) == 1
        assert [front.sentences for front in world.fronts] == [0, 0, 6]


async def test_the_list_of_a_name_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers_module, "_AGAIN_S", 0.05)
    monkeypatch.setattr(servers_module, "_NOT_SOONER_S", 0.05)
    async with running(3) as world:
        gone, new = world.fronts[0], world.fronts[2]
        world.named = [front.host for front in world.fronts[:2]]
        old = await begin(world, 4)
        assert gone.open == 2
        world.named = [front.host for front in world.fronts[1:]]
        await world.until(
            lambda: (
                set(world.users()) == {front.address for front in world.fronts[1:]}
                and lost(world, new).takes_calls
            )
        )
        more = await begin(world, 8)
        assert gone.open == 2  # nothing new, and what it had goes on
        assert new.open > 0
        await end(old + more)


async def test_one_that_takes_the_place_of_another_gets_calls_at_once() -> None:
    """A rolling update of a single pod: the name is asked again when its address rests, not half a minute later."""
    async with running(2) as world:
        old, new = world.fronts
        world.named = [old.host]
        spoken = [chunk async for chunk in world.tts.synthesize("hello")]
        world.named = [new.host]
        await old.says(serving=False)
        await until(
            world.tts._fronts, lambda: [one.address for one in world.tts._fronts.servers] == [new.address]
        )
        spoken += [chunk async for chunk in world.tts.synthesize("hello")]
        assert (old.sentences, new.sentences, len(spoken)) == (1, 1, 2)


HOSTS = """\
127.0.0.1 localhost
127.0.0.1 speech.test
127.0.0.2 speech.test
127.0.0.3 speech.test
"""
ASK = """
import asyncio, sys
from gateway.listen.riva_asr import RivaRecognizer
from gateway.settings import AsrSettings

async def main():
    asr = RivaRecognizer(AsrSettings(uri="speech.test:" + sys.argv[1]))
    try:
        await asyncio.gather(*(asr.check() for _ in range(9)))
        print(*(server.address.rpartition(":")[0] for server in asr._fronts.servers))
    finally:
        await asr.close()

asyncio.run(main())
"""


async def test_the_systems_own_resolver_tells_of_every_address(tmp_path: Path) -> None:
    """In a mount namespace, where /etc/hosts is ours."""
    (tmp_path / "hosts").write_text(HOSTS)
    async with running(3) as world:
        process = await asyncio.create_subprocess_exec(
            "unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
            f'mount --bind {tmp_path}/hosts /etc/hosts || exit 77; exec "$@"',
            "sh", sys.executable, "-c", ASK, str(world.port),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, errors = await asyncio.wait_for(process.communicate(), 30)
        if process.returncode != 0 and (b"unshare" in errors or process.returncode == 77):
            pytest.skip("no mount namespace may be made here")
        assert process.returncode == 0, errors.decode()
        assert sorted(out.decode().split()) == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]


async def test_one_that_takes_connections_and_says_nothing_is_left_out() -> None:
    async with running(2) as world:
        await world.fronts[0].kill()
        with socket.socket() as hole:
            hole.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            hole.bind((world.fronts[0].host, world.port))
            hole.listen(64)
            calls = await begin(world, 6)
            assert world.fronts[1].open == 6
            await end(calls)


async def test_services_without_health_are_used_all_the_same() -> None:
    async with running(2, with_health=False) as world:
        calls = await begin(world, 4)
        assert [front.open for front in world.fronts] == [2, 2]
        await end(calls)


async def test_recordings_are_spread_too() -> None:
    async with running(2) as world:
        uri = ",".join(front.address for front in world.fronts)
        transcriber = RivaTranscriber(AsrSettings(uri=uri), stall_s=5)
        try:
            assert [model.name for model in await transcriber.models()] == ["m"]

            async def audio() -> AsyncIterator[bytes]:
                yield WORD * 3

            for _ in range(4):
                passages = [one async for one in transcriber.transcribe(audio(), Wanted())]
                assert passages[-1].text == "w w w"
        finally:
            await transcriber.close()
        assert [front.taken for front in world.fronts] == [2, 2]


@pytest.mark.parametrize("uri", ["", "speech", "a:1,b"])
async def test_what_is_no_address_is_said_at_once(uri: str) -> None:
    with pytest.raises(TritonError, match="write host:port"):
        RivaRecognizer(AsrSettings(uri=uri))


async def test_a_name_that_leads_nowhere_is_named() -> None:
    async def nowhere(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    recognizer = RivaRecognizer(AsrSettings(uri="dns:///speech.voice.svc:50051"), resolve=nowhere)
    try:
        with pytest.raises(AsrError, match="svc:50051, whose name leads nowhere"):
            await recognizer.check()
    finally:
        await recognizer.close()
