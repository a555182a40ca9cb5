"""What the emulated parts count."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class AsrStats:
    open: int = 0
    """Streams open now."""
    streams: int = 0
    """Streams begun."""
    finals: int = 0
    """Final transcripts sent."""
    audio_ms: float = 0.0
    """Audio heard."""
    cancelled: int = 0
    """Streams whose client left before their end."""


@dataclass(slots=True)
class LlmStats:
    open: int = 0
    """Completions being made now."""
    requests: int = 0
    """Completions begun."""
    tokens: int = 0
    """Tokens sent."""
    cancelled: int = 0
    """Completions whose client left before their end."""


@dataclass(slots=True)
class TtsStats:
    open: int = 0
    """Syntheses running now."""
    requests: int = 0
    """Syntheses begun."""
    chunks: int = 0
    """Chunks of audio sent."""
    cancelled: int = 0
    """Syntheses stopped by a CANCEL, or whose client left before their end."""
    vanished: int = 0
    """Those of them whose client left without a CANCEL."""
    chunks_after_cancel: int = 0
    """Chunks made after the CANCEL of their request came in."""


@dataclass(slots=True)
class Stats:
    """`GET /stats`."""

    asr: AsrStats = field(default_factory=AsrStats)
    llm: LlmStats = field(default_factory=LlmStats)
    tts: TtsStats = field(default_factory=TtsStats)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        return asdict(self)
