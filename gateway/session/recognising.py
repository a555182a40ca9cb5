"""An utterance of a session on its way through the recogniser: opened, run in its turn's name, and its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.listen.asr import AsrError, Hypothesis
from gateway.listen.utterance import Utterance
from gateway.session import events as ev
from gateway.session.core import Core
from gateway.session.traced import begin_turn, speech_over
from gateway.session.turn import Speech, Turn

log = logging.getLogger(__name__)


def open_utterance(core: Core, turn: Turn, on_partial: Callable[[Turn, Hypothesis], None]) -> Utterance:
    """Not begun yet."""
    return Utterance(
        core.parts.recognizer,
        core.settings.asr,
        language=core.asr_language,
        on_partial=core.guarded(lambda heard: on_partial(turn, heard)),
        on_retry=lambda why: core.send(ev.Warning("asr_retry", f"{why}; trying again")),
    )


def recognise(core: Core, speech: Speech) -> None:
    """Begin, with what was fed and will be."""
    turn = speech.turn
    begin_turn(core, turn, speech.began_s)
    if turn.trace is not None:
        speech.span = turn.trace.start("asr", speech.began_s, language=core.asr_language)
    core.spawn(speech.utterance.run(), core.turn_context(turn.turn_id, speech.span))


async def final_of(core: Core, speech: Speech) -> Hypothesis | None:
    """The final transcript; None when the recogniser failed, which the client is told."""
    asr = core.settings.asr
    try:
        async with asyncio.timeout((asr.deadline_ms + asr.retry_budget_ms) / 1000):
            final = await speech.utterance.final()
    except (AsrError, TimeoutError) as error:
        why = str(error) or "the recogniser gave no final transcript in time"
        core.send(ev.Error("asr_failed", f"{why}; please say it again"))
        core.parts.metrics.part_failed("asr", "asr_failed")
        log.warning("asr failed: %s", why)
        speech_over(speech, failed=why)
        return None
    speech_over(speech)
    return final
