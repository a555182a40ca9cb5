"""Whatever a client does in whatever order: no crash, no stale frame, no illegal state, nothing left."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gateway.listen.asr import AsrError
from gateway.session import events as ev
from gateway.session.states import legal
from gateway.think.llm import LlmError
from tests.support.fakes import FakeConnection, silence, speech
from tests.support.virtual_time import run_virtual
from tests.unit.session.harness import World

_LONG = ["This is the first sentence of a reply. ", "It goes on for a while here. ", "Then it ends."]
_WORDS = ["uh huh", "stop", "", "what about cats", "yeah", "call me and", "okay then tell me more"]

_ms = st.sampled_from([20, 64, 96, 220, 256, 320, 500, 800])
_step = st.one_of(
    st.tuples(st.just("speak"), _ms),
    st.tuples(st.just("pause"), st.sampled_from([20, 100, 300, 400, 700, 1500])),
    st.tuples(st.just("wait"), st.sampled_from([10, 400, 2000])),
    st.tuples(st.just("text"), st.sampled_from(["hello", " ", "what now"])),
    st.tuples(st.just("say"), st.booleans()),
    st.tuples(st.just("cancel"), st.none()),
    st.tuples(st.just("commit"), st.none()),
    st.tuples(st.just("truncate"), st.sampled_from([-1, 0, 100, 5000])),
    st.tuples(
        st.just("configure"),
        st.sampled_from(
            [ev.Configure(eager=True), ev.Configure(barge_in=False), ev.Configure(automatic_turns=False),
             ev.Configure(barge_in=True, automatic_turns=True), ev.Configure(hangover_ms=100)]
        ),
    ),
    st.tuples(st.just("break"), st.sampled_from(["asr", "llm", "tts", "deaf"])),
)  # fmt: skip


async def _do(w: World, client: FakeConnection, what: str, value: object) -> None:
    match what, value:
        case "speak", int(ms):
            await client.play(speech(ms))
        case "pause", int(ms):
            await client.play(silence(ms))
        case "wait", int(ms):
            await asyncio.sleep(ms / 1000)
        case "text", str(text):
            client.put(ev.TextIn(text))
        case "say", bool(interruptible):
            client.put(ev.Say("Please hold the line for a moment.", interruptible))
        case "cancel", _:
            client.put(ev.Cancel())
        case "commit", _:
            client.put(ev.Commit())
        case "truncate", int(ms):
            started = client.of(ev.ReplyStarted)
            client.put(ev.Truncate(started[-1].reply_id if started else "none", ms))
        case "configure", ev.Configure() as change:
            client.put(change)
        case "break", "asr":
            w.asr.fail.append(AsrError("the recogniser is gone"))
        case "break", "llm":
            w.llm.replies.insert(0, ["It went well. ", LlmError("the model is gone")])
        case "break", "tts":
            w.tts.fail["It goes on for a while here."] = 2
        case "break", "deaf":
            w.asr.deaf = not w.asr.deaf


@pytest.mark.timeout(300)
# No shrinking: a failing example is short enough to read, and shrinking one takes minutes.
@settings(phases=[Phase.explicit, Phase.reuse, Phase.generate], max_examples=80, deadline=None)
@given(st.lists(_step, min_size=1, max_size=14), st.sampled_from(["close", "eof", "lost", "idle"]))
def test_any_order_of_events(steps: list[tuple[str, object]], ending: str) -> None:
    async def main() -> None:
        w = World(asr={"deadline_ms": 1500, "retry_budget_ms": 1000}, session={"idle_s": 60.0})
        w.asr.scripts = _WORDS * 4
        w.llm.replies = [_LONG] * 20
        client = await w.connect()
        for what, value in steps:
            await _do(w, client, what, value)
        w.asr.deaf = False
        match ending:
            case "close":
                client.put(ev.Close())
            case "eof":
                client.inbox.put_nowait(None)
            case "lost":
                client.inbox.put_nowait(ConnectionError("gone"))
        closed = await client.closed(600)
        await w.finish()
        _check(client, closed)

    run_virtual(main())


def _check(client: FakeConnection, closed: ev.Closed) -> None:
    assert closed.reason in ("client", "idle"), closed
    assert not client.stale()
    states = [ev.State.IDLE, *client.states]
    assert all(legal(a, b) for a, b in itertools.pairwise(states))
    assert client.sent[-1].event is closed
    started = [e.reply_id for e in client.of(ev.ReplyStarted)]
    assert len(set(started)) == len(started)
    assert [e.reply_id for e in client.of(ev.ReplyDone)] == started, "each reply begun is ended, in order"
    for done in client.of(ev.ReplyDone):
        said = "".join(t.text for t in client.of(ev.ReplyText) if t.reply_id == done.reply_id)
        assert "".join(said.split()).startswith("".join(done.text.split()))
    frames = client.of(ev.ReplyAudio)
    for a, b in itertools.pairwise(frames):
        assert b.sequence == (a.sequence + 1 if a.generation == b.generation else 0)
        assert b.generation >= a.generation
    finals = [t for t in client.of(ev.Transcript) if t.final]
    assert len(finals) <= len(client.of(ev.SpeechStopped)) <= len(client.of(ev.SpeechStarted))
