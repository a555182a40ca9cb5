"""A graph in half precision, for TensorRT 11 and later: precision is the graph's own there.

    python -m parley_export.half model.onnx model.fp16.onnx

Inputs, outputs and states stay FP32: only what lies between them changes.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

KEPT = ("Range", "CumSum", "Resize", "ReduceSum", "Softplus", "Pow")
"""Operators whose sums or steps leave what half precision can hold."""


def to_half(source: Path, target: Path) -> None:
    """Raises: OSError, ValueError when it is no ONNX graph."""
    model = onnx.load(str(source))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about each weight that is tiny
        half = convert_float_to_float16(
            model, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *KEPT]
        )
    onnx.save(half, str(target))


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    to_half(Path(sys.argv[1]), Path(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
