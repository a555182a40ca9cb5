"""The inputs and outputs of an ONNX file, read without the onnx package and without its weights.

ONNX is protobuf; of its fields (onnx.proto3) only the few below are looked at, through a memory map,
so that a file of gigabytes costs no more than a small one.
"""

import mmap
from dataclasses import dataclass

TYPES = {
    1: "TYPE_FP32", 2: "TYPE_UINT8", 3: "TYPE_INT8", 4: "TYPE_UINT16", 5: "TYPE_INT16", 6: "TYPE_INT32",
    7: "TYPE_INT64", 8: "TYPE_STRING", 9: "TYPE_BOOL", 10: "TYPE_FP16", 11: "TYPE_FP64", 12: "TYPE_UINT32",
    13: "TYPE_UINT64", 16: "TYPE_BF16",
}  # fmt: skip
"""TensorProto.DataType to Triton's name."""


@dataclass(frozen=True)
class Tensor:
    name: str
    data_type: str
    """Triton's name; "" when the graph does not say."""
    dims: tuple
    """-1 where it varies; None when the graph does not say the rank."""


def read_graph(path):
    """(inputs, outputs) of the graph, each a list of Tensor; constants that are listed as inputs are not.

    Raises: ValueError when the file is no ONNX graph, OSError when it cannot be read.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        inputs, outputs, constants = [], [], set()
        try:
            graphs = [span for field, span in _fields(data, 0, len(data)) if field == 7]
            for field, span in _fields(data, *graphs[0]):
                if field == 5:
                    constants |= {_text(data, s) for f, s in _fields(data, *span) if f == 8}
                elif field in (11, 12):
                    (inputs if field == 11 else outputs).append(_value(data, span))
        except (IndexError, TypeError):
            raise ValueError(f"{path} is not an ONNX graph") from None
        if not outputs:
            raise ValueError(f"{path} is not an ONNX graph")
        return [tensor for tensor in inputs if tensor.name not in constants], outputs


def _value(data, span):
    name, data_type, dims = "", "", None
    for field, value in _fields(data, *span):
        if field == 1:
            name = _text(data, value)
        elif field == 2:  # TypeProto
            for kind, tensor in _fields(data, *value):
                if kind != 1:
                    continue  # a sequence, a map, …: no tensor
                for part, inner in _fields(data, *tensor):
                    if part == 1:
                        data_type = TYPES.get(inner, "")
                    elif part == 2:
                        dims = tuple(_dimension(data, dim) for f, dim in _fields(data, *inner) if f == 1)
    return Tensor(name, data_type, dims)


def _dimension(data, span):
    fixed = [value for field, value in _fields(data, *span) if field == 1]
    return fixed[0] if fixed and 0 < fixed[0] < 1 << 62 else -1


def _fields(data, at, end):
    """(field number, value) of a message: an int, or the (begin, end) of a length-delimited field."""
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            value, at = (at, at + length), at + length
        elif kind in (1, 5):
            value, at = None, at + (8 if kind == 1 else 4)
        else:
            raise IndexError("not protobuf")
        if at > end:
            raise IndexError("truncated")
        yield key >> 3, value


def _varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError("not protobuf")


def _text(data, span):
    return data[span[0] : span[1]].decode("utf-8", "replace")
