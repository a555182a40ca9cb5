"""numpy arrays to and from KServe v2 raw tensors."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from gateway.telemetry.context import session_id, turn_id
from gateway.triton.errors import TritonError

Array = np.ndarray[Any, np.dtype[Any]]
"""Any numpy array; strings are arrays of dtype object that hold `str` or `bytes`."""

_NAMES: dict[str, str] = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
_TYPES: dict[str, np.dtype[Any]] = {name: np.dtype(numpy).newbyteorder("<") for numpy, name in _NAMES.items()}


def text(*values: str) -> Array:
    """A STRING tensor of shape [len(values)]."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def fresh_id() -> str:
    """Of a request, as the server's own log names it: the turn that it is for, where there is one, and a mark."""
    mark = secrets.token_hex(8)
    turn = turn_id.get() or session_id.get()
    return f"{turn}-{mark}" if turn else mark


def request(
    model: str,
    inputs: Mapping[str, Array],
    *,
    version: str = "",
    request_id: str = "",
    batched: bool = False,
) -> pb.ModelInferRequest:
    """A request for `model`, with all of its outputs.

    version: "" takes the newest. batched: put a batch dimension of 1 in front of every shape.
    """
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=request_id)
    for name, array in inputs.items():
        datatype, raw = _raw(name, array)
        shape = (1, *array.shape) if batched else array.shape
        message.inputs.add(name=name, datatype=datatype, shape=shape)
        message.raw_input_contents.append(raw)
    return message


def outputs(response: pb.ModelInferResponse, *, batched: bool = False) -> dict[str, Array]:
    """The response's tensors by name; strings as `str`. A response without tensors gives {}.

    batched: take the batch dimension of 1 off again.
    Raises: TritonError for a type or a size that is not what the response says.
    """
    result: dict[str, Array] = {}
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=False):
        shape, datatype = tensor.shape, tensor.datatype
        try:
            array = _strings(raw) if datatype == "BYTES" else np.frombuffer(raw, _TYPES[datatype])
            if batched or len(shape) != 1 or shape[0] != array.size:
                array = array.reshape(tuple(shape[1:] if batched else shape))
            result[tensor.name] = array
        except (KeyError, ValueError) as error:
            raise TritonError(
                f"{response.model_name}: output {tensor.name} ({tensor.datatype}) is not readable"
            ) from error
    return result


def _raw(name: str, array: Array) -> tuple[str, bytes]:
    if array.dtype.kind in "OUS":
        parts = bytearray()
        for value in array.ravel():
            data = value.encode() if isinstance(value, str) else bytes(value)
            parts += len(data).to_bytes(4, "little") + data
        return "BYTES", bytes(parts)
    datatype = _NAMES.get(array.dtype.name)
    if datatype is None:
        raise TritonError(f"input {name}: Triton has no type for {array.dtype}")
    return datatype, np.ascontiguousarray(array, dtype=_TYPES[datatype]).tobytes()


def _strings(raw: bytes) -> Array:
    found: list[str] = []
    at = 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if end > len(raw):
            raise ValueError("truncated string tensor")
        found.append(raw[at + 4 : end].decode("utf-8", "replace"))
        at = end
    return text(*found)
