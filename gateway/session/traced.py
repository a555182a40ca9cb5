"""What a session tells of its turns: spans where they are traced, and a line for each slow one.

Without tracing these functions look at one field and return.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.session.core import Core
    from gateway.session.reply import Marks, Reply
    from gateway.session.turn import Speech, Turn


def begin_turn(core: Core, turn: Turn, at_s: float, name: str = "turn") -> None:
    """Once for each turn; later calls do nothing. at_s: when the user began."""
    if core.trace is not None and turn.trace is None:
        turn.trace = core.trace.turn(turn.turn_id, at_s, name)


def came_to_nothing(turn: Turn, outcome: str) -> None:
    """No reply will come of it."""
    if turn.trace is not None and not turn.texts:
        turn.trace.close(outcome)


def speech_over(speech: Speech, *, failed: str = "") -> None:
    """It is recognised, or that failed."""
    if speech.span is None or speech.turn.trace is None:
        return
    speech.span.end(error=failed)
    if speech.stopped is not None:
        speech.turn.trace.add("speech", speech.began_s, speech.stopped.arrived_s)


def barge_in_decided(core: Core, reply: Reply, speech: Speech, *, real: bool) -> None:
    """Counted, and shown in the trace of the reply that it was about."""
    core.parts.metrics.barge_in(real=real)
    if reply.trace is not None:
        reply.trace.add("barge_in", speech.began_s, core.now(), real=real)


def heard_first(core: Core, reply: Reply) -> None:
    """The reply's first frame is about to leave."""
    _look_if_slow(core, reply, core.now(), "audible")


def reply_over(core: Core, reply: Reply, outcome: str, heard_ms: int) -> None:
    """Whatever ended it. The spans of its stages are made here: nothing is spent on them while it is awaited."""
    now = core.now()
    if not reply.announced:
        _look_if_slow(core, reply, now, outcome)
    trace = reply.trace
    if trace is None:
        return
    for name, from_s, to_s in _stages(reply.marks):
        trace.add(name, from_s, to_s)
    if reply.marks.first_audio is not None:
        trace.add("playout", reply.marks.first_audio, now, heard_ms=heard_ms)
    timings = reply.marks.timings_ms()
    trace.close(
        outcome,
        now,
        error="a part failed" if reply.failed else "",
        reply_id=reply.reply_id,
        voice_to_voice_ms=timings.get("voice_to_voice"),
        final_to_first_audio_ms=timings.get("final_to_first_audio"),
    )


def _stages(marks: Marks) -> Iterator[tuple[str, float, float]]:
    """The waterfall of a turn: each stage begins where the one before it ends."""
    at = [
        ("end_of_turn", marks.speech_end, marks.turn_end),
        ("final_transcript", marks.turn_end, marks.final),
        ("final_to_first_token", marks.final, marks.first_token),
        ("first_token_to_first_sentence", marks.first_token, marks.first_piece),
        ("sentence_to_first_chunk", marks.first_piece, marks.first_chunk),
        ("first_chunk_to_first_audio", marks.first_chunk, marks.first_audio),
    ]
    for name, from_s, to_s in at:
        if from_s is not None and to_s is not None:
            yield name, from_s, to_s


def _look_if_slow(core: Core, reply: Reply, now: float, outcome: str) -> None:
    since = reply.marks.speech_end if reply.marks.speech_end is not None else reply.marks.final
    slow = core.parts.slow_turns
    if since is None or not slow.is_slow(took_ms := (now - since) * 1000):
        return
    timeline = {f"{stage}_ms": ms for stage, ms in reply.marks.timings_ms().items()}
    context = core.turn_context(reply.turn_id, reply.trace)
    context.run(slow.tell, took_ms, timeline | {"outcome": outcome, "reply": reply.reply_id})
