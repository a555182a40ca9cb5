"""A loud sound over a reply: the reply holds its breath until the detector has decided."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from gateway.cli.player import Player
from gateway.session.events import (
    Cancel,
    Configure,
    Flushed,
    Hello,
    Outcome,
    ReplyAudio,
    ReplyDone,
    Say,
    SpeechStarted,
    State,
    TextIn,
)
from tests.support.fakes import FakeConnection, FakeVadStream, silence, speech
from tests.unit.session.harness import World, virtual, world

LONG = "The quick brown fox jumps over the lazy dog near the river bank and then it rests for a while."
LOUD = 0.03
"""−30 dBFS: loud, and nothing that the detector of these tests takes for speech."""


async def speaking(w: World, hello: Hello | None = None) -> FakeConnection:
    w.llm.replies.insert(0, [LONG])
    client = await w.connect(hello)
    client.put(TextIn("go on"))
    await client.until(ReplyAudio, count=40)
    return client


def gaps_ms(client: FakeConnection) -> list[int]:
    at = [s.at for s in client.sent if isinstance(s.event, ReplyAudio)]
    return [round((b - a) * 1000) for a, b in pairwise(at)]


def player_of(client: FakeConnection) -> Player:
    """What a client without any jitter buffer would have played."""
    player = Player(client.hello.output_rate)
    for s in client.sent:
        if isinstance(s.event, ReplyAudio):
            player.push(s.at, s.event)
        elif isinstance(s.event, Flushed):
            player.flush(s.at, s.event.generation)
    return player


def holds(w: World) -> tuple[int, int, int]:
    kinds = ("confirmed", "released", "heard")
    confirmed, released, heard = (int(w.count("parley_holds_total", kind=kind)) for kind in kinds)
    return confirmed, released, heard


@pytest.mark.parametrize("phase_ms", [0, 5, 10, 15])
def test_a_short_loud_sound_is_held_for_and_not_heard(phase_ms: int) -> None:
    @virtual
    async def run() -> None:
        async with world() as w:
            client = await speaking(w)
            await asyncio.sleep(phase_ms / 1000)
            await client.play(speech(20, LOUD))
            done = await client.until(ReplyDone)
            assert holds(w) == (0, 1, 0)
            assert 30 <= max(gaps_ms(client)) <= 80, "it was held"
            assert player_of(client).gaps == 0, "and nobody could hear that"
            frames = client.of(ReplyAudio)
            assert [f.offset_ms for f in frames] == [20 * n for n in range(len(frames))]
            assert [f.sequence for f in frames] == list(range(len(frames)))
            assert not client.of(Flushed)
            assert done.outcome is Outcome.COMPLETED
            assert client.states.count(State.SPEAKING) == 1

    run()


@virtual
async def test_a_voice_stops_the_reply_before_the_detector_knows_it() -> None:
    async with world() as w:
        client = await speaking(w)
        begin = asyncio.get_running_loop().time()
        await client.play(speech(20, LOUD), speech(600))  # the detector's window is full later
        onset, flush = client.of(SpeechStarted)[0], client.of(Flushed)[0]
        last = max(s.at for s in client.sent if isinstance(s.event, ReplyAudio))
        assert last <= begin + 0.001, "the first loud frame was the last the client got"
        assert client.at(onset) > begin + 0.020
        assert flush.generation == client.of(ReplyAudio)[-1].generation
        assert not client.stale()
        assert client.of(ReplyDone)[0].outcome is Outcome.INTERRUPTED
        assert holds(w) == (1, 0, 0)


@virtual
async def test_after_a_pause_for_nothing_the_held_frames_come_all_the_same() -> None:
    async with world() as w:
        client = await speaking(w)
        await client.play(speech(20, LOUD), speech(64), silence(900))
        await client.until(ReplyDone)
        played = [f.offset_ms for f in client.of(ReplyAudio)]
        assert sorted(set(played)) == [20 * n for n in range(played[-1] // 20 + 1)], "no frame is lost"
        assert client.of(ReplyDone)[0].outcome is Outcome.COMPLETED
        assert holds(w)[0] == 1


@pytest.mark.parametrize("stuck", [False, True])
def test_no_hold_is_longer_than_its_limit_whatever_the_detector_does(
    stuck: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    @virtual
    async def run() -> None:
        async with world() as w:
            client = await speaking(w)
            if stuck:
                monkeypatch.setattr(FakeVadStream, "push", lambda self, window: None)
            await client.play(speech(4000, 0.3 if stuck else LOUD))
            limit_ms = w.settings.barge_in.fast_hold_ms
            assert limit_ms - 20 <= max(gaps_ms(client)) <= limit_ms + 20
            assert holds(w) == (0, 0, 1), "a sound that goes on is held for once"
            frames = client.of(ReplyAudio)
            assert [f.offset_ms for f in frames] == [20 * n for n in range(len(frames))]
            assert player_of(client).gaps == 1

    run()


@virtual
async def test_a_microphone_that_falls_silent_in_a_hold_does_not_keep_the_reply_back() -> None:
    async with world() as w:
        client = await speaking(w)
        await client.play(speech(60, LOUD))
        before = len(client.of(ReplyAudio))
        await asyncio.sleep(0.3)
        assert len(client.of(ReplyAudio)) > before + 5


@pytest.mark.parametrize("end", [Cancel(), TextIn("something else"), None])
def test_a_reply_that_ends_in_a_hold_ends_as_ever(end: Cancel | TextIn | None) -> None:
    @virtual
    async def run() -> None:
        async with world() as w:
            client = await speaking(w)
            await client.play(speech(40, LOUD))
            if end is None:
                await w.hang_up(client)
                return
            client.put(end)
            await client.play(silence(400))
            assert client.of(ReplyDone)[0].outcome in (Outcome.CANCELLED, Outcome.INTERRUPTED)
            assert not client.stale()
            if isinstance(end, TextIn):
                assert (await client.until(ReplyDone, count=2)).outcome is Outcome.COMPLETED
                reply_id = client.of(ReplyDone)[1].reply_id
                offsets = [f.offset_ms for f in client.of(ReplyAudio) if f.reply_id == reply_id]
                assert offsets == [20 * n for n in range(len(offsets))]

    run()


@virtual
async def test_a_hold_over_the_last_words_does_not_keep_the_reply_open() -> None:
    async with world() as w:
        w.llm.replies = [["Just one short sentence here."]]
        client = await w.connect()
        client.put(TextIn("go on"))
        total = (await client.until(ReplyAudio)).reply_id
        while not client.of(ReplyDone):
            await client.play(speech(40, LOUD), silence(60))
        done = client.of(ReplyDone)[0]
        assert (done.reply_id, done.outcome) == (total, Outcome.COMPLETED)


@virtual
async def test_who_may_not_interrupt_holds_nothing_up() -> None:
    async with world() as w:
        client = await w.connect()
        client.put(Say(LONG, interruptible=False))
        await client.until(ReplyAudio, count=40)
        await client.play(speech(200, LOUD))
        other = await speaking(w, Hello(configure=Configure(barge_in=False)))
        await other.play(speech(200, LOUD))
        assert holds(w) == (0, 0, 0)


@virtual
async def test_it_can_be_switched_off() -> None:
    async with world(barge_in={"fast": False}) as w:
        client = await speaking(w)
        await client.play(speech(200, LOUD))
        assert holds(w) == (0, 0, 0)


@virtual
async def test_half_samples_leave_it_to_the_detector() -> None:
    async with world() as w:
        client = await speaking(w)
        await client.play(silence(20)[:-1])
        await client.play(speech(100, LOUD))
        assert holds(w) == (0, 0, 0)
