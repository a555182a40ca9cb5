"""Lifetime, state, isolation, streaming, VAD, ASR, input hygiene, queues: mistakes of earlier systems."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from gateway.audio.pcm import frame_bytes
from gateway.listen.asr import AsrError
from gateway.listen.ear import Ear, Window
from gateway.session.events import (
    AudioIn,
    Cancel,
    Close,
    Closed,
    Configure,
    Error,
    Hello,
    Outcome,
    Ready,
    ReplyAudio,
    ReplyDone,
    ReplyStarted,
    SpeechStarted,
    SpeechStopped,
    State,
    TextIn,
    Transcript,
    Warning,
)
from gateway.session.manager import Refused
from gateway.session.states import IllegalTransition, legal, step
from gateway.settings import VadSettings
from gateway.think.llm import LlmError
from tests.support.fakes import RATE, FakeConnection, FakeVad, silence, speech
from tests.support.virtual_time import settle
from tests.unit.session.harness import say, virtual, world

# ---- lifetime ----------------------------------------------------------------------------------


@virtual
async def test_session_survives_the_rpc_that_made_it_long_enough_to_clean_up() -> None:
    async with world() as w:
        client = FakeConnection()
        rpc = asyncio.create_task(w.sessions.serve(client))
        await settle()
        client.put(TextIn("hello"))
        await client.until(ReplyAudio)
        rpc.cancel()  # the handler goes at once…
        with pytest.raises(asyncio.CancelledError):
            await rpc
        await client.closed()  # …and the session, in a task of the server's own, ends in good order
        assert client.of(ReplyDone)[0].outcome is Outcome.CANCELLED
        assert w.sessions.snapshot() == []


@virtual
async def test_client_cancel_releases_asr_llm_tts_tasks() -> None:
    async with world() as w:
        w.tts.chunk_s = 0.2
        w.asr.scripts = ["one", "two"]
        for moment in (0.1, 0.45, 0.6, 0.9, 1.4):
            client = FakeConnection()
            rpc = asyncio.create_task(w.sessions.serve(client))
            await settle()
            player = asyncio.create_task(say(client, 300, 2000))
            await asyncio.sleep(moment)
            rpc.cancel()
            player.cancel()
            await asyncio.gather(rpc, player, return_exceptions=True)
            await settle()
            assert w.asr.released == w.asr.streams
            assert w.llm.closed == w.llm.streams
            assert w.tts.released == w.tts.streams
            assert not w.vad.open_streams


@virtual
async def test_clean_eof_detaches_too() -> None:
    async with world() as w:
        client = await w.connect()
        client.inbox.put_nowait(None)
        assert (await client.closed(1.0)).reason == "client"
        await settle()
        assert w.sessions.snapshot() == []


@virtual
async def test_second_connect_replaces_zombie() -> None:
    async with world() as w:
        zombie = await w.connect(Hello(session_id="call-1"))
        heir = await w.connect(Hello(session_id="call-1"))
        assert (await zombie.closed()).reason == "replaced"
        heir.put(TextIn("still there?"))
        await heir.until(ReplyDone)
        assert [s["session_id"] for s in w.sessions.snapshot()] == ["call-1"]


@virtual
async def test_a_lost_peer_ends_the_session() -> None:
    async with world() as w:
        client = await w.connect()
        client.inbox.put_nowait(ConnectionError("the peer reset the stream"))
        assert (await client.closed()).message == "the peer reset the stream"


@virtual
async def test_limits_on_sessions_and_shutdown_refuse_with_a_reason() -> None:
    async with world(session={"max_sessions": 2}) as w:
        one, _two = await w.connect(), await w.connect()
        with pytest.raises(Refused, match="all 2 sessions are taken") as full:
            await w.sessions.serve(FakeConnection())
        assert full.value.retryable
        one.put(TextIn("hello"))
        await one.until(ReplyAudio)
        drain = asyncio.create_task(w.sessions.drain(30))
        await settle()
        with pytest.raises(Refused, match="shutting down"):
            await w.sessions.serve(FakeConnection())
        await drain
        assert one.of(ReplyDone)[0].outcome is Outcome.COMPLETED, "a reply may end"
        closed = one.of(Closed)[0]
        assert (closed.reason, closed.retryable) == ("shutdown", True)


# ---- state -------------------------------------------------------------------------------------


def test_invalid_transitions_raise() -> None:
    allowed = {
        "IDLE": {"LISTENING"},
        "LISTENING": {"SPEAKING", "WAITING_FOR_INPUT"},
        "WAITING_FOR_INPUT": {"LISTENING", "SPEAKING"},
        "SPEAKING": {"BARGED_IN", "WAITING_FOR_INPUT"},
        "BARGED_IN": {"LISTENING", "SPEAKING", "WAITING_FOR_INPUT"},
        "TERMINATED": set(),
    }
    for old in State:
        for new in State:
            expected = new in allowed[old] or (new is State.TERMINATED and old is not State.TERMINATED)
            assert legal(old, new) == expected, f"{old} → {new}"
            if not expected:
                with pytest.raises(IllegalTransition):
                    step(old, new)


@virtual
async def test_late_active_cannot_resurrect_ended() -> None:
    async with world() as w:
        client = await w.connect()
        client.put(TextIn("hello"))
        await client.until(ReplyStarted)
        client.put(Close())
        await client.closed()
        client.put(TextIn("are you there"))
        await client.play(speech(500), silence(2000))
        assert client.states[-1] is State.TERMINATED
        assert isinstance(client.sent[-1].event, Closed)


# ---- isolation -----------------------------------------------------------------------------------


@virtual
async def test_stop_of_a_does_not_silence_b_and_pause_of_a_does_not_stall_b() -> None:
    async with world() as w:
        w.llm.replies = [["An answer of some length for the first."], ["An answer of some length for B."]]
        a, b = await w.connect(), await w.connect()
        a.put(TextIn("a"))
        b.put(TextIn("b"))
        await a.until(ReplyAudio, count=5)
        await a.play(speech(120))  # pauses A
        frames = len(b.of(ReplyAudio))
        await b.play(silence(200))
        assert len(b.of(ReplyAudio)) - frames >= 9
        a.put(Cancel())
        done = await b.until(ReplyDone)
        assert done.outcome is Outcome.COMPLETED
        times = [s.at for s in b.sent if isinstance(s.event, ReplyAudio)]
        assert max(np.diff(times)) <= 0.041


@virtual
async def test_stop_is_not_sticky_to_as_next_turn() -> None:
    async with world() as w:
        client = await w.connect()
        client.put(TextIn("one"))
        await client.until(ReplyAudio)
        client.put(Cancel())
        client.put(TextIn("two"))
        await client.until(ReplyDone, count=2)
        assert [d.outcome for d in client.of(ReplyDone)] == [Outcome.CANCELLED, Outcome.COMPLETED]


@virtual
async def test_frames_never_cross_session_ids() -> None:
    async with world() as w:
        w.llm.replies = [[f"Sentence number {n} is here."] for n in range(6)]
        clients = [await w.connect() for _ in range(6)]
        for client in clients:
            client.put(TextIn("go"))
            await settle()
        await asyncio.sleep(4)
        heard = [set(client.heard()) - {-1} for client in clients]
        assert all(len(one) == 1 for one in heard)
        assert set.union(*heard) == set(range(6))


# ---- streaming -----------------------------------------------------------------------------------


@virtual
async def test_first_tts_frame_leaves_before_synthesis_ends() -> None:
    async with world() as w:
        w.tts.chunk_s = 0.09  # as slow as it may be
        w.llm.replies = [["A single sentence that takes its time to be made."]]
        client = await w.connect()
        client.put(TextIn("go"))
        await client.until(ReplyAudio)
        assert w.tts.chunks <= 2
        await client.until(ReplyDone)
        assert w.tts.chunks > 20


@virtual
async def test_llm_continues_while_tts_runs() -> None:
    async with world() as w:
        w.tts.chunk_s = 0.09
        w.llm.replies = [["First sentence, quite long indeed. ", *(f"word{n} " for n in range(40)), "end."]]
        client = await w.connect()
        client.put(TextIn("go"))
        await client.until(ReplyAudio, count=30)
        assert w.llm.tokens == 42
        assert w.tts.streams == 1


@virtual
async def test_tts_failure_gives_error_status_not_an_empty_final_frame() -> None:
    async with world() as w:
        w.tts.fail = {"This one breaks the voice.": 0}
        w.llm.replies = [
            ["All of this is fine. ", "This one breaks the voice. ", "Never heard this."],
            ["Back again."],
        ]
        client = await w.connect()
        client.put(TextIn("go"))
        done = await client.until(ReplyDone)
        assert [e.code for e in client.of(Error)] == ["tts_failed"]
        assert (done.outcome, done.text) == (Outcome.FAILED, "All of this is fine.")
        client.put(TextIn("again"))
        assert (await client.until(ReplyDone, count=2)).outcome is Outcome.COMPLETED
        assert w.count("parley_part_errors_total", part="tts", code="tts_failed") == 1
        assert w.llm.prompts[-1][-2].content.startswith("All of this is fine.")


@virtual
async def test_last_fragment_without_punctuation_is_spoken() -> None:
    async with world() as w:
        w.llm.replies = [["This is one sentence. ", "And then a tail"]]
        client = await w.connect()
        client.put(TextIn("go"))
        done = await client.until(ReplyDone)
        assert done.text == "This is one sentence. And then a tail"
        assert w.tts.sentences[-1] == "And then a tail"


@virtual
async def test_llm_failure_before_and_after_the_first_token() -> None:
    async with world(llm={"apology": "Sorry, I cannot answer."}) as w:
        w.llm.replies = [[LlmError("the model is down")], ["It went well until. ", LlmError("it died")]]
        client = await w.connect()
        client.put(TextIn("one"))
        await client.until(ReplyDone, count=2)
        assert client.of(ReplyDone)[0].outcome is Outcome.FAILED
        assert client.of(ReplyDone)[1].text == "Sorry, I cannot answer."
        client.put(TextIn("two"))
        died = await client.until(ReplyDone, count=3)
        assert (died.outcome, died.text) == (Outcome.FAILED, "It went well until.")
        assert [e.code for e in client.of(Error)] == ["llm_failed"] * 2


# ---- VAD -----------------------------------------------------------------------------------------


@virtual
async def test_speech_end_in_digital_silence_with_gate_on() -> None:
    async with world(gate={"enabled": True}) as w:
        w.asr.scripts = ["hello there"]
        client = await w.connect()
        await client.play(silence(1000), speech(600), silence(800))
        assert client.of(SpeechStopped)


@virtual
async def test_pre_roll_keeps_the_onset() -> None:
    async with world() as w:
        w.asr.scripts = ["hello"]
        client = await w.connect()
        await client.play(silence(1000), speech(500), silence(800))
        await client.until(ReplyDone)
        heard = np.frombuffer(w.asr.heard[0], dtype="<i2")
        loud = int(np.argmax(np.abs(heard) > 1000))
        assert 250 <= loud / 16 <= 330, "300 ms of what came before the onset"
        assert abs(np.count_nonzero(np.abs(heard) > 1000) / 16 - 500) < 35, "and all of the speech"


@virtual
async def test_wrong_frame_length_is_refused_no_crash() -> None:
    stream = FakeVad().open(lambda p: None)
    with pytest.raises(ValueError, match="512"):
        stream.push(np.zeros(511, dtype=np.float32))


@virtual
async def test_gate_does_not_freeze_vad_time() -> None:
    verdicts: list[Window] = []

    class Shut:
        def passes(self, power: float, factor: float) -> bool:
            return False

    ear = Ear(FakeVad(), VadSettings(), input_rate=RATE, guard=None, gate=Shut(), on_window=verdicts.append)
    ear.feed(speech(3200))
    await settle()
    ear.close()
    assert [v.index for v in verdicts] == list(range(100))
    assert verdicts[-1].end_ms == 3200


@virtual
async def test_a_microphone_that_sends_nothing_any_more_does_not_hold_the_turn_open() -> None:
    async with world() as w:
        w.asr.scripts = ["hello there"]
        client = await w.connect()
        await client.play(speech(700))
        await asyncio.sleep(3)
        assert client.of(SpeechStopped)
        assert client.of(ReplyStarted)


# ---- ASR -----------------------------------------------------------------------------------------


@virtual
async def test_interim_vs_final_flag() -> None:
    async with world() as w:
        w.asr.scripts = ["one two three four"]
        client = await w.connect()
        await say(client, 1000)
        flags = [t.final for t in client.of(Transcript)]
        assert flags == [False] * (len(flags) - 1) + [True]
        assert len(flags) >= 4


@virtual
async def test_asr_failure_surfaces_as_error_not_success() -> None:
    async with world() as w:
        w.asr.fail = [AsrError("unknown language xx", retryable=False)]
        client = await w.connect()
        await say(client)
        assert [e.code for e in client.of(Error)] == ["asr_failed"]
        assert "unknown language xx" in client.of(Error)[0].message
        assert not [t for t in client.of(Transcript) if t.final]
        assert w.llm.streams == 0
        w.asr.scripts = ["hello"]
        await say(client)
        assert (await client.until(ReplyDone)).outcome is Outcome.COMPLETED


@virtual
async def test_asr_dies_in_mid_utterance_the_audio_is_replayed_and_nothing_is_lost() -> None:
    async with world() as w:
        w.asr.scripts = ["call my sister in york", "call my sister in york"]
        w.asr.fail, w.asr.fail_after_ms = [AsrError("connection lost")], 900
        client = await w.connect()
        await say(client, 1200)
        await client.until(ReplyDone)
        assert [x.code for x in client.of(Warning)] == ["asr_retry"]
        assert [t.text for t in client.of(Transcript) if t.final] == ["call my sister in york"]
        assert w.asr.audio_ms[1] >= 1200 + 200, "the second try heard it from the pre-roll on"


@virtual
async def test_asr_that_stays_down_is_an_error_after_the_budget_and_the_session_lives() -> None:
    async with world(asr={"retry_budget_ms": 3000}) as w:
        w.asr.fail = [AsrError("no route")] * 20
        client = await w.connect()
        await say(client, 500, 6000)
        assert [e.code for e in client.of(Error)] == ["asr_failed"]
        assert 3 <= len(client.of(Warning)) <= 8
        w.asr.fail = []
        w.asr.scripts = ["hello"]
        await say(client)
        await client.until(ReplyDone)


@virtual
async def test_timers_reset_per_turn() -> None:
    async with world() as w:
        w.asr.scripts = ["first one", "second one"]
        client = await w.connect()
        for n in (1, 2):
            await say(client, 500)
            await client.until(ReplyDone, count=n)
        one, two = (d.timings for d in client.of(ReplyDone))
        assert two["voice_to_voice"] == pytest.approx(one["voice_to_voice"], abs=35)


@virtual
async def test_language_explicit() -> None:
    async with world(asr={"language": "fr-FR"}) as w:
        a, b = await w.connect(), await w.connect(Hello(configure=Configure(language="es-US")))
        assert (a.of(Ready)[0].language, b.of(Ready)[0].language) == ("fr-FR", "es-US")
        await say(a)
        await say(b)
        assert w.asr.languages == ["fr-FR", "es-US"]


@virtual
async def test_more_streams_than_pool_threads_still_speak() -> None:
    async with world() as w:
        w.asr.scripts = ["hello"] * 64
        clients = [await w.connect() for _ in range(64)]
        await asyncio.gather(*(say(c, 500, 2500) for c in clients))
        assert all(c.of(ReplyDone) for c in clients)


# ---- input hygiene -------------------------------------------------------------------------------


@virtual
async def test_odd_length_pcm_carries_the_odd_byte_over_fixed_little_endian() -> None:
    async with world() as w:
        w.asr.scripts = ["hello"]
        client = await w.connect()
        ramp = (np.arange(16_000) % 2000 + 5000).astype("<i2").tobytes()
        for at in range(0, len(ramp), 333):
            client.put(AudioIn(ramp[at : at + 333]))
        await client.play(silence(800))
        heard = np.frombuffer(w.asr.heard[0], dtype="<i2")
        start = int(np.argmax(heard))
        assert heard[0] == 5000
        assert np.array_equal(heard[:1999], np.arange(5000, 6999)), "a swapped or lost byte breaks the ramp"
        assert start == 1999


def test_20_ms_at_48_khz_mono_is_1920_bytes_and_100_ms_at_16_khz_is_3200() -> None:
    assert frame_bytes(48_000) == 1920
    assert frame_bytes(16_000, 100) == 3200


# ---- queues --------------------------------------------------------------------------------------


@virtual
async def test_burst_of_4_chunks_in_5_ms_then_a_300_ms_gap_plays_smoothly() -> None:
    async with world() as w:
        w.llm.replies = [["A sentence that is long enough to be made in bursts of chunks."]]
        client = await w.connect()

        async def bursts() -> None:
            made = 0
            while True:
                await asyncio.sleep(0.001)
                if w.tts.chunks != made and w.tts.chunks % 4 == 0:
                    made, w.tts.chunk_s = w.tts.chunks, 0.300
                else:
                    w.tts.chunk_s = 0.00125

        driver = asyncio.create_task(bursts())
        client.put(TextIn("go"))
        await client.until(ReplyDone)
        driver.cancel()
        await asyncio.gather(driver, return_exceptions=True)
        gaps = np.diff([s.at for s in client.sent if isinstance(s.event, ReplyAudio)])
        assert max(gaps[10:]) <= 0.041, "the listener hears no gap"


@virtual
async def test_tts_30_s_burst_is_paced() -> None:
    async with world(playout={"buffer_s": 5.0}) as w:
        w.tts.chunk_s, w.tts.ms_per_char = 0.0, 500.0
        w.llm.replies = [["A sentence of sixty characters, all made in a single blink ok."]]
        client = await w.connect()
        client.put(TextIn("go"))
        await client.until(ReplyAudio, count=50)
        assert w.tts.chunks <= 80, "no more than the buffer is made ahead"
        done = await client.until(ReplyDone)
        assert done.heard_ms >= 30_000
        times = [s.at for s in client.sent if isinstance(s.event, ReplyAudio)]
        assert max(np.diff(times)) <= 0.041
        assert times[-1] - times[0] == pytest.approx(done.heard_ms / 1000, abs=0.1)


@virtual
async def test_a_call_is_not_late_for_ever_after_its_line_stood_still() -> None:
    """What was held up comes at once; it is read as it comes, and so is all that follows."""
    async with world() as w:
        client = await w.connect()
        for pause_s in (1, 5, 9):
            await asyncio.sleep(pause_s)
            for _ in range(50 * pause_s):
                client.put(AudioIn(silence(20)))
            await asyncio.sleep(0.1)
            assert client.inbox.empty()
            for _ in range(50):  # a second in real time
                client.put(AudioIn(silence(20)))
                await asyncio.sleep(0.02)
                assert client.inbox.qsize() <= 1


@virtual
async def test_a_flooding_client_is_read_more_slowly() -> None:
    async with world() as w:
        client = await w.connect()
        for _ in range(3000):  # a minute of audio at once
            client.put(AudioIn(silence(20)))
        await asyncio.sleep(1)
        assert client.inbox.qsize() > 2800
        assert not client.of(SpeechStarted)
