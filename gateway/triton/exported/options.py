"""Every `--option KEY=VALUE` of `parley models export`: the command, the exporter and the reference read this table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.triton.exported.families import FAMILIES, GENERATED_FAMILIES

TEXT, WHOLE, NUMBER = "text", "whole", "number"
_SEEDS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Option:
    name: str
    meaning: str
    kind: str = TEXT
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """What its value may be, as words: a whole number from 1 to 8."""
        if self.choices:
            return ", ".join(self.choices[:-1]) + f" or {self.choices[-1]}"
        if self.kind == TEXT:
            return "text"
        return f"a {'whole ' if self.kind == WHOLE else ''}number from {self.least:g} to {self.most:.15g}"

    def fits(self, value: str) -> bool:
        if self.choices:
            return value in self.choices
        if self.kind == TEXT:
            return bool(value.strip())
        try:
            number = int(value) if self.kind == WHOLE else float(value)
        except ValueError:
            return False
        return self.least <= number <= self.most

    def __str__(self) -> str:
        return f"{self.name} ({self.meaning}" + (
            f"; {self.allowed})" if self.kind != TEXT or self.choices else ")"
        )


def _whole(name: str, meaning: str, least: int, most: int) -> Option:
    return Option(name, meaning, WHOLE, least, most)


def _number(name: str, meaning: str, least: float, most: float) -> Option:
    return Option(name, meaning, NUMBER, least, most)


def _choice(name: str, meaning: str, *choices: str) -> Option:
    return Option(name, meaning, choices=choices)


OF_EVERY_FAMILY = (
    Option("license", "SPDX, in place of what the checkpoint says"),
    _choice("graphs_by", "who runs the graphs: the front's process, or Triton", "local", "triton"),
    _whole("threads", "of ONNX Runtime, each graph", 1, 256),
    _whole("max_streams", "utterances open at once; more are refused", 1, 100_000),
)
"""The last three become parameters of the front as they are."""
_LANGUAGE = Option("language", "BCP-47, of a model that does not know its own")
_LANGUAGES = Option("languages", "BCP-47, with commas between them")
_VOICES = Option("voices", "their names, with commas between them")
_SEED = _whole("seed", "of the noise of every request; without it another each time", 0, _SEEDS)
_SPEAKERS = _whole("speakers", "of random weights", 1, 1000)
_BEAM = _whole("beam", "width of the search; 1 is greedy", 1, 8)
_TOKENS = _number("tokens_per_s", "most that is written of a second of audio", 0.1, 200)
_AGREEMENT = _choice(
    "agreement", "decodes in a row that make a word stable; 0: none before the end", *"023456789"
)
_MAX_S = _number("max_s", "seconds heard at once", 1, 600)
_MAX_BATCH = _whole("max_batch", "most utterances in a batch", 1, 1024)
_MULTILINGUAL = _choice("multilingual", "random weights of the shape in many languages", "true", "false")
_FIRST_MS = _whole("first_ms", "audio of the first chunk", 1, 10_000)
_LATER_MS = _whole("later_ms", "audio of later chunks", 1, 60_000)
_VOCODER = Option("vocoder", "folder of its HiFi-GAN, where the checkpoint has none")
_EMBEDDINGS = Option("embeddings", ".npy with speaker embeddings, one a row")
_SAMPLE_RATE = _whole("sample_rate", "Hz, which the checkpoint does not say", 4_000, 192_000)
_CODEC = (
    _choice("front", "none leaves out the front that asks an LLM", "llm", "none"),
    Option("llm", "address of an OpenAI-compatible server that speaks the codec's tokens"),
    Option("llm_model", "the model's name there"),
    Option("prompt", "with {voice} and {text}"),
    _whole("first_token", "number of the token that means code 0", 0, 10_000_000),
    _VOICES,
    _LANGUAGE,
)
_GENERATED = (
    _choice("accept_license", "true: its non-commercial licence is accepted", "true", "false"),
    _number("gain", "loudness of its voices, a factor", 0.01, 100),
    Option("device", "cpu, cuda, cuda:1, …"),
)
_FOREIGN = (_VOICES, Option("language", "BCP-47, of the voices named"), *_GENERATED)
_PARAKEET = (_MAX_S, _MAX_BATCH, _LANGUAGES)

OPTIONS: dict[str, tuple[Option, ...]] = {
    "whisper": (_MULTILINGUAL, _LANGUAGE, _BEAM, _TOKENS, _AGREEMENT),
    "moonshine": (_LANGUAGE, _BEAM, _TOKENS, _MAX_S, _AGREEMENT),
    "parakeet-ctc": _PARAKEET,
    "parakeet-rnnt": (
        *_PARAKEET,
        _whole("window", "encoder frames that the joint network looks at in one step", 1, 64),
        _choice("tdt", "random weights of a TDT", "true", "false"),
    ),
    "fastconformer": (
        _whole("lookahead", "encoder frames of the future, of those that the model was trained with", 0, 1000),
        _whole("steps", "of the decoder in one step of the graph; more than lookahead + 1", 1, 10_000),
        _MAX_BATCH,
        _LANGUAGES,
        _MULTILINGUAL,
    ),
    "zipformer": (
        _choice("precision", "which of a folder's graphs: the quantised ones, or the others", "int8", "fp32"),
        _LANGUAGES,
        _MAX_BATCH,
    ),
    "vits": (
        _VOICES, _LANGUAGE, _SEED, _FIRST_MS, _LATER_MS, _SPEAKERS,
        _choice("durations", "of random weights: plain ones, or drawn", "plain", "drawn"),
    ),
    "speecht5": (
        _VOCODER, _EMBEDDINGS, _VOICES, _LANGUAGES,
        _number("threshold", "of the stop probability", 0, 100),
        _number("shortest", "frames for each id of the text, at least", 0, 1000),
        _number("longest", "frames for each id of the text, at most", 0.1, 1000),
        _number("lookahead_db", "the vocoder waits for as few frames as it differs by no more with", -200, -60),
        _SAMPLE_RATE,
    ),
    "fastspeech2": (_VOCODER, _EMBEDDINGS, _VOICES, _LANGUAGES, _SAMPLE_RATE),
    "piper": (
        _choice("phonemiser", "espeak-ng (GPL, in a process of its own), or a lexicon", "espeak", "lexicon"),
        _VOICES, _LANGUAGE, _SEED, _FIRST_MS, _LATER_MS, _SPEAKERS,
    ),
    "kokoro": (
        Option("graph", "file in the folder, where it holds several"),
        Option("voices", "those to bring, with commas between them; the first is the default"),
        _SEED,
    ),
    "mimi": (_whole("codebooks", "decoded at a time", 1, 64), *_CODEC),
    "snac": _CODEC,
    "csm": (
        Option("lora", "folder of an adapter in PEFT's layout, which is merged"),
        Option("speakers", "their ids, with commas between them"),
        _number("temperature", "of the sampling; 0 is greedy", 0, 10),
        _number("depth_temperature", "the depth decoder's, where it is another", 0, 10),
        *_GENERATED,
    ),
    **{family: _FOREIGN for family in GENERATED_FAMILIES if family != "csm"},
}  # fmt: skip
OPTIONS["melo"] += (Option("melo_language", "MeloTTS's own name of it: EN, ES, FR, ZH, JP, KR"),)


def options_of(family: str) -> dict[str, Option]:
    """By name; those that every family has come last."""
    return {one.name: one for one in (*OPTIONS[family], *OF_EVERY_FAMILY)}


def check_options(family: str, given: Mapping[str, str]) -> None:
    """Raises: ValueError, one sentence, for an option that the family does not have, or a value that it cannot be."""
    known = options_of(family)
    if unknown := [name for name in given if name not in known]:
        raise ValueError(
            f"{family} has no option {', '.join(unknown)}; it has " + ", ".join(map(str, known.values()))
        )
    for name, value in given.items():
        if not known[name].fits(value):
            raise ValueError(f"option {name}={value} must be {known[name].allowed} ({known[name].meaning})")


def help_text() -> str:
    """For `--help`: options and what they mean, family by family."""
    lines = ["options of every family (--option KEY=VALUE):", *_lines(OF_EVERY_FAMILY)]
    for families, options in _together():
        lines += [f"options of {', '.join(families)}:", *_lines(options)]
    return "\n".join(lines)


def reference_table() -> str:
    """Markdown, for the reference."""
    rows = ["| family | option | value | |", "|---|---|---|---|"]
    for families, options in (*_together(), (("every family",), OF_EVERY_FAMILY)):
        for at, one in enumerate(options):
            named = (
                ", ".join(f"`{name}`" if name in FAMILIES else name for name in families) if not at else ""
            )
            rows.append(f"| {named} | `{one.name}` | {one.allowed} | {one.meaning} |")
    return "\n".join(rows)


def _together() -> list[tuple[tuple[str, ...], Sequence[Option]]]:
    """Families with the same options once."""
    found: dict[tuple[Option, ...], list[str]] = {}
    for family in FAMILIES:
        found.setdefault(OPTIONS[family], []).append(family)
    return [(tuple(families), options) for options, families in found.items()]


def _lines(options: Sequence[Option]) -> list[str]:
    return [f"  {one.name:<18} {one.meaning}" + _range(one) for one in options]


def _range(one: Option) -> str:
    return f" [{one.allowed}]" if one.choices or one.kind != TEXT else ""
