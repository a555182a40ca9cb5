"""A client that vanishes, stops reading or floods costs itself, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from gateway.protocol import voice_pb2 as pb
from gateway.session import events as ev
from tests.stack.whole import TONE_VOICE, Bystander, Table, Whole, whole
from tests.support.caller import Caller
from tests.support.stack import CHECKOUT, TEST_MODELS, Stack, shared_stack
from tests.support.tones import tones_in
from tests.support.wire import Wire

pytestmark = [pytest.mark.stack]

stack = shared_stack("tts_tone", repository=TEST_MODELS, scope="module")

NAME = "the-same-caller"
LONG = "tone 700 for 60000"
CLIENT = """
    import asyncio, sys
    from tests.support.caller import Caller

    async def main():
        async with Caller(sys.argv[1], voice="beep", session_id=sys.argv[2]) as caller:
            await caller.heard(await caller.typed(sys.argv[3]), 200)
            print("heard", flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())
"""


@pytest.fixture
async def parley(stack: Stack) -> AsyncIterator[Whole]:
    async with whole(stack.triton.grpc) as parley:
        yield parley


# --- it vanishes


@asynccontextmanager
async def cancelled(parley: Whole) -> AsyncIterator[Any]:
    async with parley.call(session_id=NAME) as caller:
        await caller.heard(await caller.typed(LONG), 200)
        yield caller.client._call.cancel


@asynccontextmanager
async def reset(parley: Whole) -> AsyncIterator[Any]:
    async with (
        Wire(parley.address) as wire,
        Caller(wire.address, voice=TONE_VOICE, session_id=NAME) as caller,
    ):
        await caller.heard(await caller.typed(LONG), 200)
        yield wire.reset


@asynccontextmanager
async def killed(parley: Whole) -> AsyncIterator[Any]:
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", textwrap.dedent(CLIENT), parley.address, NAME, LONG),
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert client.stdout is not None
    assert await asyncio.wait_for(client.stdout.readline(), 20) == b"heard\n"
    try:
        yield client.kill
    finally:
        with contextlib.suppress(ProcessLookupError):
            client.kill()
        await client.wait()


@pytest.mark.parametrize("way", [cancelled, reset, killed])
async def test_a_client_that_vanishes_mid_reply(parley: Whole, table: Table, way: Any) -> None:
    loop = asyncio.get_running_loop()
    made = await parley.made()
    begun = loop.time()
    async with parley.call() as other:
        bystander = Bystander(other, "tone 500 for 2500", hz=500)
        async with way(parley) as vanish:
            await bystander.begin()
            vanish()
            gone = loop.time()
            assert (await parley.log.until(NAME)).startswith("client")
            noticed = loop.time() - gone
        async with parley.call(session_id=NAME) as again:
            back = loop.time()
            answer = await again.ask("tone 900 for 300")
            assert answer.done.outcome == "completed", answer.errors
            assert again.tones(700, 900) == [900]
            assert answer.first_at is not None
            works = answer.first_at - back
        late = await bystander.finish()
        assert await parley.made() - made <= work(gone - begun, 2_500, 300), "it was made for nobody"
        table.add(f"a client vanishes: {way.__name__}", told=noticed, works=works, late=late)


def work(s: float, *whole_ms: int) -> float:
    """The most chunks that tts_tone makes in a reply that is stopped after `s`, and in whole ones."""
    return s / 0.032 + sum(whole_ms) / 40 + 10


# --- it stops reading


class Deaf:
    """A client that reads only when told to, over a connection that holds little."""

    def __init__(self, address: str) -> None:
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", 16_384),
        ]
        self._channel = grpc.aio.insecure_channel(address, options=options)
        self.call: grpc.aio.StreamStreamCall[bytes, bytes] = self._channel.stream_stream(
            "/parley.v1.Voice/Converse"
        )()
        self.heard: list[pb.ServerMessage] = []

    async def __aenter__(self) -> Deaf:
        start = pb.Start(session_id=NAME, output=pb.AudioFormat(sample_rate=48_000))
        start.settings.voice = TONE_VOICE
        await self.send(pb.ClientMessage(start=start))
        await self.until("ready")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()
        await self._channel.close()

    async def send(self, message: pb.ClientMessage) -> None:
        await self.call.write(message.SerializeToString())

    async def type(self, text: str) -> None:
        await self.send(pb.ClientMessage(text=pb.Text(text=text)))

    async def until(self, kind: str, within_s: float = 10.0) -> pb.ServerMessage:
        """Read up to the next message of a kind. Raises AioRpcError when the stream broke before it."""
        async with asyncio.timeout(within_s):
            while (raw := await self.call.read()) is not grpc.aio.EOF:
                assert isinstance(raw, bytes)
                self.heard.append(pb.ServerMessage.FromString(raw))
                if self.heard[-1].WhichOneof("message") == kind:
                    return self.heard[-1]
        raise AssertionError(f"the stream ended without {kind}")

    def frames(self) -> list[ev.ReplyAudio]:
        audio = (m.reply_audio for m in self.heard if m.WhichOneof("message") == "reply_audio")
        return [ev.ReplyAudio(a.reply_id, a.generation, a.sequence, a.offset_ms, a.audio) for a in audio]


async def test_a_client_that_stops_reading_and_reads_again(stack: Stack, table: Table) -> None:
    session = {"outbox_ms": 300, "drain_s": 0.0}
    async with (
        whole(stack.triton.grpc, session=session) as parley,
        parley.call() as other,
        Deaf(parley.address) as deaf,
    ):
        bystander = Bystander(other, "tone 500 for 4000", hz=500)
        await bystander.begin()
        await deaf.type("tone 700 for 60000")
        await other.heard(0, 3_000)  # meanwhile everything between the two is full
        loop = asyncio.get_running_loop()
        back = loop.time()
        told = await deaf.until("warning")
        assert told.warning.code == "audio_dropped"
        noticed = loop.time() - back
        await deaf.type("tone 900 for 300")
        await deaf.until("flushed")
        fresh = len(deaf.heard)
        await deaf.until("reply_done")  # of the story
        await deaf.until("reply_audio")
        works = loop.time() - back
        await deaf.until("reply_done")
        held = [m.reply_audio for m in deaf.heard[:fresh] if m.WhichOneof("message") == "reply_audio"]
        assert tones_in(deaf.frames()[len(held) :], [700, 900], 48_000) == [900]
        late = await bystander.finish()
        table.add("a client stops reading, then reads", told=noticed, works=works, late=late)


async def test_a_client_that_never_reads_is_closed_with_a_reason(stack: Stack, table: Table) -> None:
    session = {"outbox_ms": 300, "slow_client_s": 0.5, "drain_s": 0.0}
    async with (
        whole(stack.triton.grpc, session=session) as parley,
        parley.call() as other,
        Deaf(parley.address) as deaf,
    ):
        loop = asyncio.get_running_loop()
        made = await parley.made()
        bystander = Bystander(other, "tone 500 for 3500", hz=500)
        await bystander.begin()
        begun = loop.time()
        await deaf.type(LONG)
        closed = await parley.log.until(NAME)
        assert closed == "slow_client (the client has taken nothing for 0.5 s)"
        gone = loop.time()
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await deaf.until("closed")
        assert told.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "read the stream as fast as it comes" in (told.value.details() or "")
        async with parley.call(session_id=NAME) as again:
            answer = await again.ask("tone 900 for 300")
            assert again.tones(700, 900) == [900]
            assert answer.done.outcome == "completed", answer.errors
        late = await bystander.finish()
        assert await parley.made() - made <= work(gone - begun, 3_500, 300), "it was made for nobody"
        table.add("a client never reads: closed", late=late)


# --- it floods


async def test_a_flood_of_audio_meets_flow_control(parley: Whole, table: Table) -> None:
    frame = pb.ClientMessage(audio=bytes(3_200)).SerializeToString()  # 100 ms
    async with parley.call() as other, Deaf(parley.address) as flooder:
        bystander = Bystander(other, "tone 500 for 2500", hz=500)
        await bystander.begin()
        before, sent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await flooder.call.write(frame)
                sent += 1

        flooding = asyncio.create_task(flood())
        late = await bystander.finish()
        flooding.cancel()
        await asyncio.wait({flooding})
        grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        assert sent / 10 < 30, f"{sent / 10:.0f} s of audio were taken in 2.5 s"
        assert grown_mb < 30
        await parley.log.until(NAME)
        table.add(f"a flood of audio ({sent / 10:.0f} s taken in 2.5 s)", late=late)


@pytest.mark.parametrize(("kind", "number"), [("text", 16), ("say", 16), ("cancel", 150)])
async def test_a_flood_of_requests_harms_nobody(parley: Whole, table: Table, kind: str, number: int) -> None:
    events: dict[str, ev.ClientEvent] = {
        "text": ev.TextIn("tone 700 for 300"),
        "say": ev.Say("tone 700 for 300"),
        "cancel": ev.Cancel(),
    }
    async with parley.call() as other, parley.call() as flooder:
        bystander = Bystander(other, "tone 500 for 2000", hz=500)
        await bystander.begin()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for _ in range(number):
            await flooder.client.send(events[kind])
        await flooder.typed("tone 900 for 300")
        answer = await flooder.until(ev.ReplyText, where=lambda reply: "900" in reply.text)
        took = loop.time() - begun
        assert took > 0.9, "the flood was not slowed"
        done = await flooder.until(ev.ReplyDone, where=lambda done: done.reply_id == answer.reply_id)
        assert done.outcome == "completed"
        frames = [f for f in flooder.since(ev.ReplyAudio) if f.reply_id == answer.reply_id]
        assert tones_in(frames, [700, 900], flooder.rate) == [900]
        table.add(f"a flood of {number} × {kind}", works=took, late=await bystander.finish())
