"""What the samples are called on the page, and numbers as a person reads them."""

from __future__ import annotations

import math

TIMES: tuple[tuple[str, str, str], ...] = (
    ("voice_to_voice", "Voice to voice", "True end of speech at the caller to the first reply audio at the caller"),
    ("stop_to_first_audio", "After the end of turn", "End of turn seen by the caller to the first reply audio"),
    ("speech_end_to_stopped", "End of turn", "True end of speech to the gateway's word that the turn is over"),
    ("speech_end_to_final", "Final transcript", "True end of speech to the final transcript at the caller"),
    ("final_to_first_token", "First token", "Final transcript to the first token of the LLM"),
    ("first_token_to_first_sentence", "First sentence", "First token to the first piece that can be spoken"),
    ("sentence_to_first_chunk", "First chunk", "First piece handed to synthesis to its first audio"),
    ("final_to_first_audio", "Final to first audio", "Final transcript to the first reply audio, at the gateway"),
    ("barge_in", "Barge-in", "True onset of the interrupting speech to the last stale frame at the caller"),
    ("detect_to_stale", "Flush", "The gateway's word of the interruption to the last stale frame"),
    ("connect", "Connect", "Dialling to a session that is ready"),
    ("frame_jitter", "Jitter of a reply", "99th percentile of how late a reply's frames came, one value a reply"),
)  # fmt: skip
"""(sample, title, what it is), in the order of the page."""

STAGES: tuple[tuple[str, str], ...] = (
    ("end of speech → end of turn", "hangover and detector"),
    ("end of turn → final transcript", "recogniser"),
    ("final → first token", "LLM"),
    ("first token → first sentence", "LLM"),
    ("sentence → first chunk", "synthesis"),
    ("first chunk → caller", "gateway, pacing, network"),
)


def milliseconds(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "never"
    return f"{value:,.0f} ms".replace(",", " ") if abs(value) >= 10 else f"{value:.1f} ms"


def percent(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{100 * value:.0f} %" if value in (0, 1) or value >= 0.1 else f"{100 * value:.2g} %"


def number(value: float | None, digits: int = 2, unit: str = "") -> str:
    if value is None or math.isnan(value):
        return "–"
    return (
        "never"
        if math.isinf(value)
        else f"{value:,.{digits}f}".replace(",", " ") + (f" {unit}" if unit else "")
    )
