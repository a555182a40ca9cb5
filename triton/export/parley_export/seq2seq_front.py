"""front.json, tokens, licence and the reference of an encoder with an autoregressive decoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.pieces import Pieces
from parley_export.checkpoint import Checkpoint, ExportError
from parley_export.seq2seq import Shape
from parley_export.sounds import bursts

RATE = 16_000
Generate = Callable[[NDArray[np.float32], str, int], Sequence[int]]
"""(audio, language, most new tokens) -> what torch's own greedy generate writes, without prompt and end."""


@dataclass
class Decoding:
    """How text is written, as front.json says it under "decoding" (gateway.triton.models.asr.seq2seq)."""

    prompts: dict[str, list[int]]
    """By language; "" of a model that is not told one. All of the same length."""
    eos: list[int]
    most_positions: int
    """Tokens of prompt and text together."""
    tokens_per_s: float
    """Of audio; who writes more repeats itself."""
    max_s: float
    frame_s: float
    """Of the encoder."""
    median: int
    """Width of the median filter over the attention, in frames."""
    detect: dict[str, int] = field(default_factory=dict)
    """Tokens of the languages, of which the likeliest after the prompt's first token is the one spoken."""
    suppress: list[int] = field(default_factory=list)
    begin_suppress: list[int] = field(default_factory=list)
    """Never written first."""
    spare_tokens: int = 8
    """Beyond tokens_per_s: short words take several."""
    length_penalty: float = 1.0
    least_samples: int = 1
    """What is shorter has no words."""
    interface: str = "parley"
    """Of the graphs; merged: ready-made ones with use_cache_branch."""

    def limit(self, samples: int) -> int:
        """Most tokens of text in so much audio."""
        prompt = max(map(len, self.prompts.values()))
        return min(self.most_positions - prompt, int(samples / RATE * self.tokens_per_s) + self.spare_tokens)

    def told(self) -> dict[str, Any]:
        return asdict(self)


def number(options: Mapping[str, str], name: str, default: float) -> float:
    """Raises: ExportError."""
    try:
        value = float(options.get(name, default))
    except ValueError:
        raise ExportError(f"option {name}={options[name]} is no number") from None
    if value <= 0:
        raise ExportError(f"option {name}={options[name]} must be more than 0")
    return value


def reference(decoding: Decoding, generate: Generate, tokens: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """audio_0, tokens_0, text_0 and, of a model in many languages, language_0: what the whole model must say."""
    pieces = Pieces(tokens)
    languages = list(decoding.prompts)
    chosen = [languages[at % len(languages)] for at in range(3)]
    told: dict[str, Any] = {}
    for at, (share, language) in enumerate(zip((0.3, 0.55, 0.9), chosen, strict=True)):
        audio = bursts(min(share * decoding.max_s, 3.0 + 2 * at), seed + at)
        ids = list(generate(audio, language, decoding.limit(len(audio))))
        told[f"audio_{at}"] = audio
        told[f"tokens_{at}"] = np.array(ids, np.int64)
        told[f"text_{at}"] = np.array(pieces.text(ids))
        if language:
            told[f"language_{at}"] = np.array(language)
    return told


def stripped(ids: Sequence[int], prompt: Sequence[int], eos: Sequence[int]) -> list[int]:
    """What was written alone: without the prompt, and up to the end."""
    text = list(ids[len(prompt) :]) if list(ids[: len(prompt)]) == list(prompt) else list(ids)
    for at, token in enumerate(text):
        if token in eos:
            return text[:at]
    return text


def model_name(family: str, checkpoint: Checkpoint) -> str:
    """whisper-tiny.en becomes whisper_tiny_en, and so does a label without the family."""
    label = re.sub(r"[^a-z0-9]+", "_", checkpoint.label.lower()).strip("_")
    return label if label.startswith(f"{family}_") else f"{family}_{label}"


def memory_mb(model: Any, shape: Shape, rows: int) -> str:
    """A process, the weights, an encoder's attention over the longest audio (four copies of the scores while it is
    worked on: a Whisper tiny was measured), and what `rows` utterances' cross attention holds, twice while it is
    packed anew."""
    weights = sum(one.numel() for one in model.parameters()) * 4
    scores = 4 * shape.heads * max(shape.most_heard**2, 3_000_000) * 4
    cross = 2 * rows * shape.layers * 2 * shape.heads * shape.head_dim * shape.most_heard * 4
    return str(150 + (weights + scores + cross) // (1 << 20))


def settling(checkpoint: Checkpoint, options: Mapping[str, str]) -> dict[str, Any]:
    """For front.json, option agreement: how many decodes must agree on a word before it is stable. What random weights
    write does not settle as more is heard: none is."""
    agreement = options.get("agreement", "0" if checkpoint.is_random else "")
    return {"agreement": int(agreement)} if agreement else {}


def license_of(checkpoint: Checkpoint, default: str = "LicenseRef-unknown") -> tuple[str, str]:
    """(SPDX expression, text) of a checkpoint: what its model card's head and its LICENSE say."""
    if checkpoint.folder is None:
        return "CC0-1.0", "Random weights: nobody's work.\n"
    text = ""
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md"):
        if (checkpoint.folder / name).is_file():
            text = (checkpoint.folder / name).read_text("utf-8", errors="replace")
    card = checkpoint.folder / "README.md"
    if card.is_file():
        head = re.search(r"^license:\s*(\S+)", card.read_text("utf-8", errors="replace"), re.MULTILINE)
        if head:
            spelled = {
                "mit": "MIT",
                "apache-2.0": "Apache-2.0",
                "cc-by-4.0": "CC-BY-4.0",
                "cc0-1.0": "CC0-1.0",
            }
            return spelled.get(head[1].lower(), head[1]), text
    return default, text
