"""What was recognised, in the shapes that OpenAI's clients read."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.listen.asr import HeardWord
from gateway.listen.transcriber import Passage

_LONGEST_S = 8.0
"""A longer passage is cut between words where it can be: a subtitle is to be read while it is heard."""
_LANGUAGES = {
    "ar": "arabic", "bg": "bulgarian", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german",
    "el": "greek", "en": "english", "es": "spanish", "et": "estonian", "fi": "finnish", "fr": "french",
    "he": "hebrew", "hi": "hindi", "hr": "croatian", "hu": "hungarian", "id": "indonesian", "it": "italian",
    "ja": "japanese", "ko": "korean", "lt": "lithuanian", "lv": "latvian", "ms": "malay", "nl": "dutch",
    "no": "norwegian", "pl": "polish", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sk": "slovak",
    "sl": "slovenian", "sr": "serbian", "sv": "swedish", "ta": "tamil", "th": "thai", "tr": "turkish",
    "uk": "ukrainian", "ur": "urdu", "vi": "vietnamese", "zh": "chinese",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Segment:
    text: str
    start_s: float
    end_s: float
    confidence: float
    """0: not known."""


def whole_text(finals: Sequence[Passage]) -> str:
    return " ".join(passage.text for passage in finals if passage.text)


def segments(finals: Sequence[Passage]) -> list[Segment]:
    """In order, without overlap; a passage without word times ends where the recogniser was."""
    found: list[Segment] = []
    for passage in finals:
        if not passage.text:
            continue
        before_s = found[-1].end_s if found else 0.0
        for text, words in _cut(passage):
            start_s = max(before_s, words[0].start_ms / 1000) if words else before_s
            end_s = max(start_s, words[-1].end_ms / 1000 if words else passage.processed_s)
            found.append(Segment(text, start_s, end_s, passage.confidence))
            before_s = end_s
    return found


def verbose(
    finals: Sequence[Passage],
    *,
    language: str,
    seconds: float,
    temperature: float,
    with_words: bool,
    with_segments: bool,
) -> dict[str, Any]:
    """verbose_json. language: BCP-47. avg_logprob is 0 where the recogniser names no confidence."""
    body: dict[str, Any] = {
        "task": "transcribe",
        "language": _LANGUAGES.get(language.lower().replace("_", "-").partition("-")[0], language),
        "duration": round(seconds, 3),
        "text": whole_text(finals),
        "usage": usage(seconds),
    }
    if with_words:
        body["words"] = [
            {"word": word.text, "start": word.start_ms / 1000, "end": word.end_ms / 1000}
            for passage in finals
            for word in passage.words
        ]
    if with_segments:
        body["segments"] = [
            {
                "id": number,
                "seek": 0,
                "start": round(segment.start_s, 3),
                "end": round(segment.end_s, 3),
                "text": segment.text,
                "tokens": [],
                "temperature": temperature,
                "avg_logprob": math.log(segment.confidence) if segment.confidence else 0.0,
                "compression_ratio": _compression(segment.text),
                "no_speech_prob": 0.0,
            }
            for number, segment in enumerate(segments(finals))
        ]
    return body


def usage(seconds: float) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(seconds)}


def srt(finals: Sequence[Passage]) -> str:
    """SubRip."""
    return "\n".join(
        f"{number}\n{_clock(s.start_s, ',')} --> {_clock(s.end_s, ',')}\n{s.text}\n"
        for number, s in enumerate(segments(finals), 1)
    )


def vtt(finals: Sequence[Passage]) -> str:
    """WebVTT."""
    cues = (
        f"{_clock(s.start_s, '.')} --> {_clock(s.end_s, '.')}\n{_escaped(s.text)}\n" for s in segments(finals)
    )
    return "\n".join(("WEBVTT\n", *cues))


def _cut(passage: Passage) -> list[tuple[str, tuple[HeardWord, ...]]]:
    """At its longest pauses, as long as a piece is longer than _LONGEST_S. Only where the text is its words."""
    words, spellings = passage.words, passage.text.split()
    if len(words) != len(spellings):
        return [(passage.text, words)]
    pieces: list[tuple[int, int]] = []
    waiting = [(0, len(words))]
    while waiting:
        first, end = waiting.pop()
        if end - first < 2 or words[end - 1].end_ms - words[first].start_ms <= _LONGEST_S * 1000:
            pieces.append((first, end))
            continue
        middle = (first + end) / 2
        # Of pauses of the same length the one nearest the middle.
        at = max(
            range(first + 1, end),
            key=lambda i: (words[i].start_ms - words[i - 1].end_ms, -abs(i - middle)),
        )
        waiting += [(at, end), (first, at)]
    return [(" ".join(spellings[first:end]), words[first:end]) for first, end in pieces]


def _compression(text: str) -> float:
    """As Whisper has it: text that repeats itself has a high one."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _clock(seconds: float, point: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
