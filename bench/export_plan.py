"""What is measured of each family of exported models, and with how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.triton.exported.families import ASR_FAMILIES, CODEC_FAMILIES, TTS_FAMILIES

CONFIGS = Path(__file__).parent / "export_configs"
FAMILIES = (*ASR_FAMILIES, *TTS_FAMILIES, *CODEC_FAMILIES)
SENTENCE = "Two boats came home this morning, and the harbour was quiet again."
"""What costs are measured on: four to five seconds."""
SHORT = "Good morning."
"""Of first chunks."""
UTTERANCE_S = 6.0
CHUNK = 2_560
"""Samples at 16 kHz that a session sends at a time."""
SEED = 7


@dataclass(frozen=True, slots=True)
class Size:
    config: str
    """File in export_configs; "" where the family has one size of random weights."""
    what: str
    options: tuple[str, ...] = ()


# Random weights write without end: as many tokens as fast speech has.
_AS_SPEECH = ("tokens_per_s=4",)
SIZES = {
    "whisper": Size("whisper-tiny", "whisper-tiny.en", _AS_SPEECH),
    "moonshine": Size("moonshine-tiny", "moonshine-tiny", _AS_SPEECH),
    "parakeet-ctc": Size("parakeet-ctc-27m", "16 layers of 256"),
    "parakeet-rnnt": Size("parakeet-rnnt-29m", "16 layers of 256, one LSTM of 320"),
    "fastconformer": Size("fastconformer-29m", "16 layers of 256, one LSTM of 320; 160 ms a step"),
    "zipformer": Size("", "stand-in of two layers: the way around the graph, no zipformer"),
    "vits": Size("mms-tts", "MMS-TTS"),
    "speecht5": Size("speecht5-half", "half as wide and as deep, HiFi-GAN whole"),
    "fastspeech2": Size("fastspeech2-conformer", "FastSpeech2Conformer with HiFi-GAN"),
    "piper": Size("piper-medium", "like a medium voice"),
    "kokoro": Size("", "stand-in: the way around the graph, no Kokoro"),
    "mimi": Size("mimi", "Mimi, 8 codebooks"),
    "snac": Size("snac-24khz", "snac_24khz"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    quick: bool = False
    """random:small and few samples: shows that it works, not what it costs."""
    repeats: int = 3
    """Of a cost: the least is taken, which others disturbed least."""
    sizes: tuple[int, ...] = (1, 4, 16, 32)
    """Utterances, or rows of a graph, at once."""
    longest_s: float = 8.0
    """CPU of one size; larger ones than fit are left out."""
    crowds: tuple[int, ...] = (16, 64)
    """Sentences asked for at once."""
    alone: int = 5
    """Sentences asked for one after the other."""
    sessions: tuple[int, ...] = (1, 8)
    """Utterances in real time side by side."""
    sentences: int = 3

    @classmethod
    def short(cls) -> Plan:
        return cls(True, 1, (1, 4), 1.0, (4,), 2, (2,), 1)

    def checkpoint(self, family: str) -> str:
        config = SIZES[family].config
        return "random:small" if self.quick or not config else f"random:{CONFIGS / config}.json"

    def options(self, family: str) -> tuple[str, ...]:
        return () if self.quick else SIZES[family].options

    def what(self, family: str) -> str:
        return "small" if self.quick else SIZES[family].what
