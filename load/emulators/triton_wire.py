"""What a Triton with one decoupled voice says on the KServe v2 wire, and its chunks as ready bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from load.emulators.profile import TtsProfile
from load.emulators.voice import Signal, babble, cut, start_of

INPUTS = {
    "TEXT": ("BYTES", 1),
    "VOICE": ("BYTES", 1),
    "LANGUAGE": ("BYTES", 1),
    "STYLE": ("BYTES", 1),
    "SPEED": ("FP32", 1),
    "REFERENCE_AUDIO": ("FP32", -1),
    "CANCEL": ("BOOL", 1),
}
_MOST_READY = 1_024
"""Chunks kept: several times as many as the usual profile has."""
_CONFIG_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "BOOL": "TYPE_BOOL"}


def model_config(profile: TtsProfile) -> ModelConfig:
    """As `ModelConfig` answers it."""
    voices = [voice.partition(":") for voice in profile.voices]
    parameters = {
        "family": "tts",
        "engine": "emulated",
        "languages": ",".join(dict.fromkeys(language for _, _, language in voices)),
        "voices": ",".join(name for name, _, _ in voices),
        "voice_languages": ",".join(language for _, _, language in voices),
        "sample_rate": str(profile.sample_rate),
        "tags": "cpu,streaming,emulated",
        "streaming": "true",
        "needs_gpu": "false",
        "memory_mb": "1",
        "license": "Apache-2.0",
        "default": "true",
    }
    config = ModelConfig(name=profile.model, backend="python", max_batch_size=0)
    config.model_transaction_policy.decoupled = True
    config.instance_group.add(name=f"{profile.model}_0", kind=ModelInstanceGroup.Kind.KIND_CPU, count=1)
    for name, (datatype, size) in INPUTS.items():
        config.input.add(
            name=name, data_type=DataType.Value(_CONFIG_TYPES[datatype]), dims=[size], optional=True
        )
    config.output.add(name="AUDIO", data_type=DataType.TYPE_FP32, dims=[-1])
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    return config


def model_metadata(profile: TtsProfile) -> pb.ModelMetadataResponse:
    made = pb.ModelMetadataResponse(name=profile.model, versions=["1"], platform="python")
    for name, (datatype, size) in INPUTS.items():
        made.inputs.add(name=name, datatype=datatype, shape=[size])
    made.outputs.add(name="AUDIO", datatype="FP32", shape=[-1])
    return made


def server_metadata() -> pb.ServerMetadataResponse:
    return pb.ServerMetadataResponse(
        name="triton",
        version="2.51.0",
        extensions=["model_repository", "model_configuration", "binary_tensor_data", "statistics"],
    )


def inputs_of(request: pb.ModelInferRequest) -> Mapping[str, Any]:
    """Values of the inputs by name: texts, floats, bools; raw bytes of what is longer.

    Raises: ValueError, for what cannot be read.
    """
    found: dict[str, Any] = {}
    raws = iter(request.raw_input_contents)
    for tensor in request.inputs:
        contents = tensor.contents
        if tensor.name not in INPUTS:
            raise ValueError(f"unexpected inference input '{tensor.name}' for model '{request.model_name}'")
        if tensor.HasField("contents"):
            values = [*contents.bytes_contents, *contents.fp32_contents, *contents.bool_contents]
            value = values[0] if values else None
        else:
            raw = next(raws, b"")
            value = _value(raw, tensor.datatype) if tensor.name != "REFERENCE_AUDIO" else raw
        if value is not None:
            found[tensor.name] = value.decode("utf-8", "replace") if _is_text(tensor, value) else value
    return found


def _is_text(tensor: Any, value: object) -> bool:
    return tensor.datatype == "BYTES" and isinstance(value, bytes)


def _value(raw: bytes, datatype: str) -> Any:
    if datatype == "BYTES":
        length = int.from_bytes(raw[:4], "little")
        if len(raw) < 4 or length != len(raw) - 4:
            raise ValueError("a text tensor must hold one text")
        return raw[4:]
    if datatype == "FP32" and len(raw) == 4:
        return float(np.frombuffer(raw, "<f4")[0])
    if datatype == "BOOL" and len(raw) == 1:
        return raw != b"\0"
    raise ValueError(f"a tensor of type {datatype} with {len(raw)} bytes cannot be read")


class Responses:
    """Serialized responses of one request: `message()` glues ready pieces together."""

    def __init__(self, model: str, request_id: str) -> None:
        self._head: bytes = pb.ModelInferResponse(
            model_name=model, model_version="1", id=request_id
        ).SerializeToString()

    def message(self, tail: bytes, *, final: bool) -> bytes:
        """tail: from `Chunks`, or b"" for a response without audio."""
        size = len(self._head) + len(_FLAGS[final]) + len(tail)
        return b"".join((b"\x12", _varint(size), self._head, _FLAGS[final], tail))

    def error(self, text: str) -> bytes:
        reply: bytes = pb.ModelStreamInferResponse(error_message=text).SerializeToString()
        return reply + self.message(b"", final=True)


class Chunks:
    """The audio of any text as chunks, nearly all of which were serialized before.

    The babble is a ring of cells of one chunk each. A text starts at a cell; its first chunk is the
    head of that cell, and all later ones lie `first_audio_ms` into their cells.
    """

    def __init__(self, profile: TtsProfile) -> None:
        self.rate = profile.sample_rate
        self._ms_per_char = profile.ms_per_char
        self._first = round(self.rate * profile.first_audio_ms / 1000)
        self._chunk = round(self.rate * profile.chunk_ms / 1000)
        self._ready: dict[tuple[int, int], bytes] = {}
        self._ring = len(babble(self.rate)[0])

    def of(self, text: str, speed: float) -> list[tuple[int, int]]:
        """(start in the ring, samples) of each chunk; the last one is up to half a chunk longer or shorter."""
        left = max(self._first, round(len(text) * self._ms_per_char / speed * self.rate / 1000))
        at, size = start_of(text, self.rate), self._first
        made = []
        while left > 0:
            if left - size < self._chunk // 2:
                size = left
            made.append((at % self._ring, size))
            at += size
            left -= size
            size = self._chunk
        return made

    def tail(self, at: int, size: int) -> bytes:
        """Serialized output and audio of a chunk."""
        if size not in (self._first, self._chunk):
            return _tail(cut(self.rate, at, size))
        ready = self._ready.get((at, size))
        if ready is None:
            ready = _tail(cut(self.rate, at, size))
            if len(self._ready) < _MOST_READY:
                self._ready[at, size] = ready
        return ready


def _tail(audio: Signal) -> bytes:
    made = pb.ModelInferResponse(raw_output_contents=[audio.astype("<f4").tobytes()])
    made.outputs.add(name="AUDIO", datatype="FP32", shape=[len(audio)])
    raw: bytes = made.SerializeToString()
    return raw


def _flags(final: bool) -> bytes:
    made = pb.ModelInferResponse()
    made.parameters["triton_final_response"].bool_param = final
    raw: bytes = made.SerializeToString()
    return raw


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


_FLAGS = {final: _flags(final) for final in (False, True)}
