"""What a model says about itself: its `config.pbtxt`, read from a server or from the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.triton.errors import TritonError

YES = ("true", "1", "yes")
NO = ("false", "0", "no")
SYSTEM_PREFIX = "parley_"
"""Models that Parley installs for itself: nobody's to list, load or route to."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The part of a model's config that people and routing care about."""

    name: str
    """Of its folder."""
    backend: str
    """python, onnxruntime, …; "" where the server chooses."""
    decoupled: bool
    """Any number of responses per request: ModelStreamInfer only. Others: never ModelStreamInfer."""
    max_batch_size: int
    """0: tensors have no batch dimension."""
    sequence: bool
    """Requests belong to sequences (`sequence_batching`)."""
    inputs: tuple[str, ...]
    """Input tensors, optional ones too."""
    outputs: tuple[str, ...]
    """Output tensors."""
    family: str
    """asr, tts, vad, … as the config's parameters say."""
    languages: tuple[str, ...]
    """BCP-47."""
    voices: tuple[str, ...]
    """The first is the default."""
    voice_languages: tuple[str, ...]
    """Of each voice, in the same order; empty: every voice speaks every language."""
    sample_rate: int
    """Hz of its audio; 0 when not given."""
    tags: tuple[str, ...]
    needs_gpu: bool
    memory_mb: int
    """Resident memory; 0 when not given."""
    license: str
    """SPDX expression."""
    default: bool
    """Preferred among the models of its family."""
    engine: str = ""
    """What makes its sound or its words: flite, pocketsphinx, …; voice packs are made for one."""
    streaming: bool = True
    """Audio or words come while there is still work; said in the parameters, else by the kind of model."""
    needs_models: tuple[str, ...] = ()
    """Models of the same server that it calls: loaded before it, and not unloaded while it is resident."""
    max_sequences: int = 0
    """Utterances or texts that it takes at the same time, all instances together: `max_candidate_sequences`, and the
    parameter max_streams where that is less; 0 when neither is given."""


def model_info(config: ModelConfig) -> ModelInfo:
    """Raises: TritonError when a number in the parameters is none."""

    def value(key: str) -> str:
        return str(config.parameters[key].string_value).strip() if key in config.parameters else ""

    def values(key: str) -> tuple[str, ...]:
        return tuple(item.strip() for item in value(key).split(",") if item.strip())

    def flag(key: str, otherwise: bool = False) -> bool:
        return value(key).lower() in YES if value(key) else otherwise

    def number(key: str) -> int:
        try:
            return int(value(key) or 0)
        except ValueError:
            raise TritonError(f"{config.name}: parameter {key} in config.pbtxt is not a number") from None

    sequence = config.HasField("sequence_batching")
    return ModelInfo(
        name=config.name,
        backend=config.backend or config.platform.partition("_")[0],
        decoupled=config.model_transaction_policy.decoupled,
        max_batch_size=config.max_batch_size,
        sequence=sequence,
        inputs=tuple(tensor.name for tensor in config.input),
        outputs=tuple(tensor.name for tensor in config.output),
        family=value("family"),
        languages=values("languages"),
        voices=values("voices"),
        voice_languages=values("voice_languages"),
        sample_rate=number("sample_rate"),
        tags=values("tags"),
        needs_gpu=flag("needs_gpu"),
        memory_mb=number("memory_mb"),
        license=value("license") or value("licence"),
        default=flag("default"),
        engine=value("engine"),
        streaming=flag("streaming", config.model_transaction_policy.decoupled or sequence),
        needs_models=values("needs_models"),
        max_sequences=_instances(config) * _least(_candidates(config), number("max_streams")),
    )


def _candidates(config: ModelConfig) -> int:
    """Sequences that one instance takes; 0: no sequences, or the server's own choice."""
    batching = config.sequence_batching
    if batching.HasField("oldest"):
        return int(batching.oldest.max_candidate_sequences)
    return int(config.max_batch_size) if batching.HasField("direct") else 0


def _instances(config: ModelConfig) -> int:
    return sum(max(1, group.count) * max(1, len(group.gpus)) for group in config.instance_group) or 1


def _least(*limits: int) -> int:
    """Of those that are given; 0: none is."""
    return min((limit for limit in limits if limit > 0), default=0)


def family_of(model: ModelInfo) -> str:
    """asr, tts, … by its config, else by its name."""
    return model.family or model.name.partition("_")[0]


def read_config(folder: Path) -> ModelConfig:
    """The config of the model in `folder`; an empty one named after it where there is no config.pbtxt.

    Raises: TritonError naming the file and the line.
    """
    config = ModelConfig()
    path = folder / "config.pbtxt"
    try:
        text_format.Parse(path.read_text("utf-8"), config)
    except FileNotFoundError:
        pass
    except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
        raise TritonError(f"{path} cannot be read: {error}") from None
    config.name = config.name or folder.name
    return config


def is_complete(config: ModelConfig) -> bool:
    """False: Triton must ask the model's graph for its inputs and outputs before it can load it."""
    return bool(config.input and config.output and (config.backend or config.platform))
