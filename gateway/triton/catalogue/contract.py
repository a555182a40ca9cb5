"""The contracts of `asr_*` and `tts_*` models, as far as a config.pbtxt shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from gateway.triton.catalogue.findings import Finding, error, first_error, warning
from gateway.triton.catalogue.folder import CONFIG, ModelFolder

ASR_RATE = 16_000
"""Hz of what a recogniser hears."""
IDLE_S = 5.0
"""After so long without audio a recogniser forgets an utterance."""
FAMILIES = ("asr", "tts")


class Tensor(NamedTuple):
    datatype: str
    dims: tuple[int, ...]
    needed: bool
    """Without it the model cannot be used; the others are a loss."""
    optional: bool = True
    """Of an input: it may be, or must be, left out of a request."""


_TEXT = Tensor("STRING", (1,), False)
ASR_INPUTS = {
    "AUDIO": Tensor("FP32", (-1,), True, optional=False),
    "LANGUAGE": _TEXT,
    "HINTS": Tensor("STRING", (-1,), False),
}
ASR_OUTPUTS = {
    "TRANSCRIPT": Tensor("STRING", (1,), True),
    "STABLE": Tensor("INT32", (1,), True),
    "IS_FINAL": Tensor("BOOL", (1,), True),
    "WORDS": Tensor("STRING", (-1,), True),
    "WORD_TIMES": Tensor("INT32", (-1, 2), True),
}
TTS_INPUTS = {
    "TEXT": _TEXT._replace(needed=True),
    "VOICE": _TEXT,
    "LANGUAGE": _TEXT,
    "STYLE": _TEXT,
    "SPEED": Tensor("FP32", (1,), False),
    "REFERENCE_AUDIO": Tensor("FP32", (-1,), False),
    "CANCEL": Tensor("BOOL", (1,), True),
}
TTS_OUTPUTS = {"AUDIO": Tensor("FP32", (-1,), True)}


def check_contract(folder: ModelFolder, config: ModelConfig) -> Iterator[Finding]:
    """Findings for a recogniser or a voice; none for other models."""
    prefix = folder.name.partition("_")[0]
    said = _parameter(config, "family")
    family = said or prefix
    checks = _Checks(folder, config)
    if prefix in FAMILIES and said and said != prefix:
        yield checks.error(f'parameter family: "{said}" does not fit the name {folder.name}', '"family"')
        return
    if family not in FAMILIES:
        return
    if prefix != family:
        yield checks.warning(
            f"its family is {family}: call it {family}_{folder.name}, or nobody looks for it", "name"
        )
    if not said:
        yield checks.warning(f'parameter family is missing: "{family}"')
    yield from checks.asr() if family == "asr" else checks.tts()
    yield from checks.description()


def breach(config: ModelConfig) -> str:
    """How a loaded model, whose folder nobody here can read, breaks its contract; "" when it does not."""
    worst = first_error(check_contract(ModelFolder(config.name, "", frozenset(), {}), config))
    return f"{config.name}: {worst.text}" if worst is not None else ""


class _Checks:
    def __init__(self, folder: ModelFolder, config: ModelConfig) -> None:
        self._folder = folder
        self._config = config

    def error(self, text: str, *at: str) -> Finding:
        return error(text, self._file, self._folder.line_of(*at) if at else 0)

    def warning(self, text: str, *at: str) -> Finding:
        return warning(text, self._file, self._folder.line_of(*at) if at else 0)

    def asr(self) -> Iterator[Finding]:
        config = self._config
        if not config.HasField("sequence_batching"):
            yield self.error("a recogniser keeps its utterances by sequence_batching, and it has none")
        else:
            yield from self._sequences()
        yield from self._one_instance("an utterance's state lives in one process")
        if config.max_batch_size < 1:
            yield self.error("max_batch_size must be at least 1 for sequence_batching", "max_batch_size")
        yield from self._tensors("input", config.input, ASR_INPUTS)
        yield from self._tensors("output", config.output, ASR_OUTPUTS)
        rate = _parameter(config, "sample_rate")
        if not rate:
            yield self.warning(f'parameter sample_rate is missing: "{ASR_RATE}"')
        elif rate.isdecimal() and int(rate) != ASR_RATE:
            yield self.error(
                f"parameter sample_rate: a recogniser hears {ASR_RATE} Hz, not {rate}", '"sample_rate"'
            )

    def _sequences(self) -> Iterator[Finding]:
        batching = self._config.sequence_batching
        if batching.WhichOneof("strategy_choice") != "oldest":
            at = "direct" if batching.HasField("direct") else "sequence_batching"
            yield self.error(
                "sequence_batching must be oldest: the direct strategy ties an utterance to a slot", at
            )
        elif not batching.oldest.max_candidate_sequences:
            yield self.error(
                "oldest needs max_candidate_sequences, the utterances at the same time", "oldest"
            )
        idle_s = (batching.max_sequence_idle_microseconds or 1_000_000) / 1e6
        if idle_s != IDLE_S:
            yield self.warning(
                f"max_sequence_idle_microseconds is {idle_s:g} s, not {IDLE_S:g}: how long a caller may say nothing",
                "max_sequence_idle_microseconds",
            )

    def tts(self) -> Iterator[Finding]:
        config = self._config
        if not config.model_transaction_policy.decoupled:
            yield self.error(
                "a voice is decoupled: model_transaction_policy { decoupled: true }",
                "model_transaction_policy",
            )
        yield from self._one_instance("CANCEL must meet the request that it cancels")
        if config.max_batch_size:
            yield self.error("max_batch_size must be 0: a voice takes one text a request", "max_batch_size")
        yield from self._tensors("input", config.input, TTS_INPUTS)
        yield from self._tensors("output", config.output, TTS_OUTPUTS)
        if not _parameter(config, "sample_rate"):
            yield self.error("parameter sample_rate is missing: nobody knows how to play its audio")
        voices = _parameter(config, "voices")
        if not voices:
            yield self.warning("parameter voices is missing: it has only its default voice")
        elif not _parameter(config, "voice_languages") and "," in _parameter(config, "languages"):
            yield self.warning("parameter voice_languages is missing: nobody knows which voice speaks what")

    def description(self) -> Iterator[Finding]:
        if not _parameter(self._config, "languages"):
            yield self.warning("parameter languages is missing: it is asked for every language")
        if not (_parameter(self._config, "license") or _parameter(self._config, "licence")):
            yield self.warning("parameter license is missing")
        if not _parameter(self._config, "memory_mb"):
            yield self.warning("parameter memory_mb is missing: the memory cap cannot count it")

    def _one_instance(self, why: str) -> Iterator[Finding]:
        groups = self._config.instance_group
        count = sum(group.count or 1 for group in groups)
        if not groups:
            yield self.warning(f"instance_group is missing: give it count 1, as {why}")
        elif count != 1:
            yield self.error(f"instance_group makes {count} instances, and must make 1: {why}", "count")

    def _tensors(self, kind: str, given: Sequence[Any], wanted: Mapping[str, Tensor]) -> Iterator[Finding]:
        found = {tensor.name: tensor for tensor in given}
        for name, tensor in wanted.items():
            its = found.get(name)
            if its is None:
                text = f"{kind} {name} ({tensor.datatype} {list(tensor.dims)}) is missing"
                yield self.error(text) if tensor.needed else self.warning(text)
                continue
            at = f'"{name}"'
            datatype = DataType.Name(its.data_type).removeprefix("TYPE_")
            if datatype != tensor.datatype:
                yield self.error(f"{kind} {name} is {datatype}, and must be {tensor.datatype}", at)
            if tuple(its.dims) != tensor.dims:
                yield self.error(
                    f"{kind} {name} has dims {list(its.dims)}, and must have {list(tensor.dims)}", at
                )
            if kind == "input" and tensor.optional and not its.optional:
                yield self.error(f"input {name} must be optional: it is left out of some requests", at)
        for name, its in found.items():
            if kind == "input" and name not in wanted and not its.optional:
                yield self.error(
                    f"input {name} is no part of the contract, so it must be optional", f'"{name}"'
                )

    @property
    def _file(self) -> str:
        has = CONFIG in self._folder.entries
        return f"{self._folder.where}/{CONFIG}" if has else self._folder.where


def _parameter(config: ModelConfig, key: str) -> str:
    return str(config.parameters[key].string_value).strip() if key in config.parameters else ""
