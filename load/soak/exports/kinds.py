"""What is exported: every family with random weights, in each of the ways in which it is built differently."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    family: str
    options: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        return ", ".join(self.options) or "small"


KINDS = (
    Kind("whisper"),
    Kind("whisper", ("multilingual=true",)),
    Kind("moonshine"),
    Kind("moonshine", ("max_s=12",)),
    Kind("parakeet-ctc"),
    Kind("parakeet-ctc", ("max_batch=2",)),
    Kind("parakeet-rnnt"),
    Kind("parakeet-rnnt", ("tdt=true",)),
    Kind("parakeet-rnnt", ("window=1",)),
    Kind("fastconformer"),
    Kind("fastconformer", ("lookahead=0",)),
    # Random weights babble: up to five steps a frame, where speech needs the default's three.
    Kind("fastconformer", ("lookahead=3", "steps=20")),
    Kind("fastconformer", ("multilingual=true",)),
    Kind("zipformer"),
    Kind("zipformer", ("max_batch=2",)),
    Kind("vits"),
    Kind("vits", ("speakers=3",)),
    Kind("vits", ("durations=plain",)),
    Kind("speecht5"),
    Kind("speecht5", ("threshold=2.1", "longest=6")),
    Kind("fastspeech2"),
    Kind("piper"),
    Kind("piper", ("speakers=3",)),
    Kind("kokoro"),
    Kind("mimi"),
    Kind("mimi", ("codebooks=4",)),
    Kind("snac"),
)
SHORT = tuple(kind for kind in KINDS if kind.family in ("vits", "fastconformer") and not kind.options)
