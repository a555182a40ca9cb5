"""Small ONNX files, written field by field (onnx.proto3), so that tests need no onnx package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FLOAT, INT64, STRING = 1, 7, 8

Shape = Sequence[int | str]
"""Numbers are fixed, words vary."""


def graph(
    nodes: Sequence[tuple[str, Sequence[str], Sequence[str]]],
    inputs: dict[str, tuple[int, Shape]],
    outputs: dict[str, tuple[int, Shape]],
    constants: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] | None = None,
) -> bytes:
    """nodes: (operator, inputs, outputs). constants: FP32 weights, listed as inputs too, as old files do."""
    constants = constants or {}
    body = b"".join(_field(1, _node(*node)) for node in nodes)
    body += _text(2, "test")
    body += b"".join(_field(5, _tensor(name, array)) for name, array in constants.items())
    listed = inputs | {name: (FLOAT, array.shape) for name, array in constants.items()}
    body += b"".join(_field(11, _value(name, *kind)) for name, kind in listed.items())
    body += b"".join(_field(12, _value(name, *kind)) for name, kind in outputs.items())
    return _number(1, 8) + _field(7, body) + _field(8, _number(2, 13))


def doubler(batch: bool = True) -> bytes:
    """SUM = A + B, DIFF = A - B, each FP32 [n, 3] (or [3])."""
    shape: Shape = ("n", 3) if batch else (3,)
    return graph(
        [("Add", ("A", "B"), ("SUM",)), ("Sub", ("A", "B"), ("DIFF",))],
        {"A": (FLOAT, shape), "B": (FLOAT, shape)},
        {"SUM": (FLOAT, shape), "DIFF": (FLOAT, shape)},
    )


def linear(weights: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    """Y = X @ weights, FP32 [n, k] to [n, m]."""
    rows, columns = weights.shape
    return graph(
        [("MatMul", ("X", "W"), ("Y",))],
        {"X": (FLOAT, ("n", rows))},
        {"Y": (FLOAT, ("n", columns))},
        {"W": weights},
    )


def echo_text() -> bytes:
    """OUT = IN, strings [n, 2]."""
    return graph([("Identity", ("IN",), ("OUT",))], {"IN": (STRING, ("n", 2))}, {"OUT": (STRING, ("n", 2))})


def scaled() -> bytes:
    """Y = X * FACTOR: FP32 [3], and a scalar."""
    return graph(
        [("Mul", ("X", "FACTOR"), ("Y",))],
        {"X": (FLOAT, (3,)), "FACTOR": (FLOAT, ())},
        {"Y": (FLOAT, (3,))},
    )


def _node(operator: str, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    body = b"".join(_text(1, name) for name in inputs) + b"".join(_text(2, name) for name in outputs)
    return body + _text(3, "_".join(outputs)) + _text(4, operator)


def _tensor(name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    dims = b"".join(_number(1, size) for size in array.shape)
    return dims + _number(2, FLOAT) + _text(8, name) + _field(9, array.astype("<f4").tobytes())


def _value(name: str, kind: int, shape: Shape) -> bytes:
    dims = b"".join(
        _field(1, _text(2, size) if isinstance(size, str) else _number(1, size)) for size in shape
    )
    return _text(1, name) + _field(2, _field(1, _number(1, kind) + _field(2, dims)))


def _field(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _text(number: int, value: str) -> bytes:
    return _field(number, value.encode())


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))
