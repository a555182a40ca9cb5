"""A client that connects again: real servers, one address before them, and lines that are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest

from gateway.cli.client import CallFailed, VoiceClient
from gateway.cli.steady import KEPT_S, SteadyClient
from gateway.session import events as ev
from gateway.session.core import INTERNAL
from gateway.session.memory import Memory
from gateway.settings import ResumeSettings
from gateway.transports.voice_grpc import VoiceServer
from load.soak.rolling.service import Service
from tests.support.fakes import FakeLlm, silence, speech
from tests.unit.session.harness import World

KEY = "a secret of all replicas, 32 characters"


class TellingLlm(FakeLlm):
    """Says when it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def stream(self, *args: Any, **options: Any) -> Any:
        self.asked.set()
        async for item in super().stream(*args, **options):
            yield item


class Replica(World):
    """A gateway with scripted parts, on an address of its own."""

    address = ""

    @classmethod
    async def start(cls) -> Replica:
        made = cls(memory=Memory(ResumeSettings(), KEY, longest_s=60.0))
        made.llm = telling = TellingLlm()
        made.asked_again = telling.asked
        made.sessions._parts = replace(made.sessions._parts, llm=telling)
        made.tts.ms_per_char = 10.0
        made.server = VoiceServer(made.sessions, made.settings.session, "127.0.0.1:0")
        made.address = await made.server.start()
        return made

    async def stop(self, grace_s: float = 0.0) -> None:
        self.sessions.draining = True
        await self.server.drain()
        await self.sessions.drain(grace_s)
        await self.server.stop(0.5)

    def asked(self) -> list[str]:
        return [message.content for message in self.llm.prompts[-1] if message.role == "user"]

    server: VoiceServer
    asked_again: asyncio.Event


class Talker:
    """A client whose events are kept."""

    def __init__(self, address: str, **options: Any) -> None:
        def make(hello: ev.Hello, connect_s: float) -> VoiceClient:
            return VoiceClient(address, hello, connect_s=connect_s)

        self.client = SteadyClient(make, ev.Hello(), **options)
        self.notes: list[str] = []
        self.client.on_gap = self.notes.append
        self.events: list[ev.ServerEvent] = []
        self.failed: CallFailed | None = None
        self._news = asyncio.Event()
        self.reading: asyncio.Task[None] | None = None

    async def read(self) -> None:
        try:
            async for arrival in self.client:
                self.events.append(arrival.event)
                self._news.set()
        except CallFailed as failure:
            self.failed = failure
        finally:
            self._news.set()

    async def until(self, enough: Callable[[Talker], bool], within_s: float = 10.0) -> None:
        async with asyncio.timeout(within_s):
            while not enough(self):
                self._news.clear()
                await self._news.wait()

    def count(self, kind: type[ev.ServerEvent]) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    async def type(self, text: str) -> None:
        done = self.count(ev.ReplyDone)
        await self.client.send(ev.TextIn(text))
        await self.until(lambda it: it.count(ev.ReplyDone) > done)


@asynccontextmanager
async def talking(address: str, **options: Any) -> AsyncIterator[Talker]:
    talker = Talker(address, **options)
    async with talker.client:
        talker.reading = asyncio.create_task(talker.read())
        yield talker
    talker.reading.cancel()
    await asyncio.wait({talker.reading})


@asynccontextmanager
async def replicas() -> AsyncIterator[tuple[Service, str, Replica, Replica]]:
    """The first of them is the one that takes calls."""
    service = Service()
    one, other = await Replica.start(), await Replica.start()
    service.add(one.address)
    address = await service.open()
    try:
        yield service, address, one, other
    finally:
        await service.close()
        for replica in (one, other):
            await replica.stop()
        for replica in (one, other):
            await replica.finish()


async def test_it_goes_on_at_another_replica_within_two_seconds_with_its_history() -> None:
    async with replicas() as (service, address, one, other), talking(address) as talker:
        await talker.type("my name is Ada")
        service.remove(one.address)
        service.add(other.address)
        await one.stop(grace_s=5.0)
        await talker.until(lambda it: it.count(ev.Ready) == 1)
        assert talker.client.gaps_s[0] < 2.0
        assert not talker.count(ev.Closed), "the conversation goes on"
        assert talker.client.ready is not None
        assert talker.client.ready.resumed
        await talker.type("who am I?")
        assert other.asked() == ["my name is Ada", "who am I?"]
        assert [note.rpartition(",")[2] for note in talker.notes][1:] == [" with its history"]
        assert "shutting down" in talker.notes[0]
        heard = [event for event in talker.events if isinstance(event, ev.ReplyAudio)]
        assert [f.generation for f in heard] == sorted(f.generation for f in heard)
        assert talker.client.player.stale_frames == 0
        await talker.client.hang_up()
        await talker.until(lambda it: it.count(ev.Closed) == 1)


async def test_a_question_that_was_lost_with_the_line_is_asked_again() -> None:
    async with replicas() as (service, address, one, other), talking(address) as talker:
        await talker.type("first")
        one.llm.first_s = 30.0
        one.asked_again.clear()
        await talker.client.send(ev.TextIn("lost?"))
        async with asyncio.timeout(5):
            await one.asked_again.wait()
        service.remove(one.address)
        service.add(other.address)
        assert service.cut(one.address) == 1
        await talker.until(lambda it: it.count(ev.ReplyDone) == 2)
        assert other.asked() == ["first", "lost?"]
        assert talker.client.gaps_s[0] < 2.0


@pytest.mark.parametrize("how", ["cut", "drained"])
async def test_a_question_that_is_asked_again_is_in_the_history_once(how: str) -> None:
    """The process that had it knows of it, too: it hands its history over, or seals it before it ends."""
    async with replicas() as (service, address, one, other), talking(address) as talker:
        await talker.type("first")
        one.llm.first_s = 30.0
        one.asked_again.clear()
        await talker.client.send(ev.TextIn("again?"))
        async with asyncio.timeout(5):
            await one.asked_again.wait()
        one.llm.first_s = 0.05
        if how == "cut":
            assert service.cut(one.address) == 1
        else:
            service.remove(one.address)
            service.add(other.address)
            await one.stop(grace_s=0.0)
        await talker.until(lambda it: it.count(ev.ReplyDone) == 2)
        assert (one if how == "cut" else other).asked() == ["first", "again?"]


async def test_what_is_said_in_the_gap_arrives_and_the_oldest_of_too_much_is_dropped() -> None:
    async with replicas() as (service, address, one, other), talking(address) as talker:
        await talker.type("first")
        service.remove(one.address)
        await one.stop()
        second = bytes(32_000)
        for _ in range(int(KEPT_S) + 1):
            await talker.client.send_audio(second)
        await talker.client.send_audio(speech(1_000))
        await talker.client.send_audio(silence(1_000))
        other.asr.scripts = ["words of the gap"]
        await talker.client.send(ev.Configure(voice="bob"))
        assert talker.client.dropped_bytes == 3 * len(second)
        service.add(other.address)
        await talker.until(lambda it: it.count(ev.Ready) == 1)
        await talker.until(lambda it: it.count(ev.ReplyDone) == 2)
        assert other.asked() == ["first", "words of the gap"]
        assert other.tts.asked[-1][0] == "bob"


async def test_who_hangs_up_or_wants_no_reconnecting_is_left_alone() -> None:
    async with replicas() as (service, address, one, other), talking(address, reconnect=False) as talker:
        service.remove(one.address)
        service.add(other.address)
        await one.stop()
        await talker.until(lambda it: it.count(ev.Closed) == 1)
        assert talker.reading is not None
        await talker.reading
        assert not service.taken.get(other.address)
        with pytest.raises(CallFailed):
            await talker.client.send(ev.TextIn("anybody?"))


async def test_where_nobody_comes_back_the_last_reason_is_told() -> None:
    async with replicas() as (service, address, one, _), talking(address, give_up_s=0.5) as talker:
        service.remove(one.address)
        await one.stop()
        await talker.until(lambda it: it.failed is not None)
        assert talker.failed is not None
        assert talker.failed.status is grpc.StatusCode.UNAVAILABLE


async def test_a_server_that_ends_every_session_at_once_is_not_dialled_without_end() -> None:
    async with replicas() as (service, address, one, _):
        taken = [0.0]
        goes_on = one.sessions.serve

        async def ends_at_once(connection: ev.Connection) -> None:
            taken.append(asyncio.get_running_loop().time())
            serving = asyncio.create_task(goes_on(connection))
            await asyncio.sleep(0)
            for session, _task in list(one.sessions._live.values()):
                session.end(INTERNAL)
            await serving

        async with talking(address, give_up_s=1.5) as talker:
            one.sessions.serve = ends_at_once  # type: ignore[method-assign]
            service.cut(one.address)
            await talker.until(lambda it: it.failed is not None)
        assert talker.failed is not None
        assert "the session failed" in str(talker.failed)
        assert 3 <= len(taken) < 12, "tries grow rarer"


async def test_a_question_that_was_called_off_is_not_asked_again() -> None:
    async with replicas() as (service, address, one, other), talking(address) as talker:
        await talker.type("first")
        one.llm.first_s = 30.0
        one.asked_again.clear()
        await talker.client.send(ev.TextIn("never mind"))
        async with asyncio.timeout(5):
            await one.asked_again.wait()
        await talker.client.send(ev.Cancel())
        service.remove(one.address)
        service.add(other.address)
        await one.stop()
        await talker.until(lambda it: it.count(ev.Ready) == 1)
        await talker.type("last")
        assert other.llm.streams == 1


async def test_a_refusal_says_when_to_come_again() -> None:
    async with replicas() as (_, address, one, _other):
        one.sessions.draining = True
        with pytest.raises(CallFailed) as caught:
            await VoiceClient(address).connect()
        assert caught.value.retry_s is not None
        assert 0.1 <= caught.value.retry_s <= 1.0
