"""A graph in half precision, for TensorRT 11 and later: precision is the graph's own there.

    python -m parley_export.half FOLDER model.fp16.onnx

FOLDER is that of a graph's model, with the reference that it is held against. Inputs, outputs and states stay FP32, and
so does what does not stand half precision (`half_kept`). Ends with 3 where nothing worth it would stand it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from google.protobuf.message import DecodeError

from gateway.triton.exported.description import Graph, from_json
from gateway.triton.exported.reference import Case, load, rows_of
from gateway.triton.tensorrt.keys import TOLERANCE
from parley_export.half_graph import half_part, in_half, prepare
from parley_export.half_kept import kept_nodes

NOT_STOOD = 3
WORTH = 0.1
"""Of a graph's weights: with less of them in half precision it is built in FP32."""
TRIES = 16
"""Parts that a graph is cut into when looking for how much of it stands half precision."""
LARGEST_BYTES = (1 << 31) - (1 << 26)
"""Of weights: protobuf ends at 2 GiB, and the graph itself takes some."""


class NotStood(Exception):
    """`str()` is a sentence."""


def half_that_stands(folder: Path, target: Path) -> float:
    """Writes the copy of folder's graph; the part of its weights that is in half precision.

    What its structure tells stays FP32; if that is not enough, so does everything between two of its nodes.
    Raises: NotStood, OSError, ValueError.
    """
    graph = from_json((folder / "graph.json").read_text("utf-8"))
    cases = load(folder / "reference.npz")
    model = _prepared(folder / "1" / "model.onnx")
    kept = kept_nodes(model)
    count = len(model.graph.node)

    def stands(also: Collection[int]) -> Any:
        made = in_half(model, kept | set(also))
        return made if _says_the_same(graph, cases, made) else None

    made = stands(())
    if made is None:
        made = _most_that_stands(
            lambda first, end: stands(range(count * first // TRIES, count * end // TRIES))
        )
    if made is None or half_part(made) < WORTH:
        raise NotStood(f"{folder.name} does not stand FP16 anywhere that is worth it")
    work = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        onnx.save(made, str(work))
        work.replace(target)
    finally:
        work.unlink(missing_ok=True)
    return half_part(made)


def _most_that_stands(made_with: Callable[[int, int], Any]) -> Any:
    """The copy with the fewest parts in FP32 that stands, of those with parts first to end in it, end exclusive.

    None where no fewer than all of them do. What goes wrong is taken to be in one place.
    """
    best, low, high = None, 1, TRIES
    while low < high:
        end = (low + high) // 2
        if (made := made_with(0, end)) is not None:
            best, high = made, end
        else:
            low = end + 1
    end, low, high = low, 0, low - 1
    while low < high:
        first = (low + high + 1) // 2
        if (made := made_with(first, end)) is not None:
            best, low = made, first
        else:
            high = first - 1
    return best


def _prepared(source: Path) -> Any:
    """Raises: NotStood, OSError, ValueError."""
    try:
        model = onnx.load(str(source))
        if sum(len(one.raw_data) for one in model.graph.initializer) >= LARGEST_BYTES:
            raise NotStood(f"{source} has more weights than can be converted in one piece (2 GiB)")
        model = onnx.shape_inference.infer_shapes(model)
    except DecodeError:
        raise ValueError(f"{source} is no ONNX graph") from None
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise ValueError(f"{source} is no graph whose types can be told: {error}") from None
    prepare(model)
    return model


def _says_the_same(graph: Graph, cases: list[Case], model: Any) -> bool:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:
        return False  # nodes inside others, whose types did not follow
    inputs = {tensor.name for tensor in session.get_inputs()}

    def run(feeds: Any) -> Any:
        made = session.run(graph.output_names, {key: v for key, v in feeds.items() if key in inputs})
        return dict(zip(graph.output_names, made, strict=True))

    tolerance = graph.tolerance * TOLERANCE["fp16"]
    return all(row.ok for row in rows_of(graph, cases, run, tolerance=tolerance))


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        part = half_that_stands(Path(sys.argv[1]), Path(sys.argv[2]))
    except NotStood as error:
        print(error)
        return NOT_STOOD
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{Path(sys.argv[1]).name}: {part:.0%} of its weights in FP16")
    return 0


if __name__ == "__main__":
    sys.exit(main())
