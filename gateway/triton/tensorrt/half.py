"""A graph's copy in half precision, held against torch before anything is built from it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from gateway.triton.exported.reference import compare, load
from gateway.triton.models.graphs import GraphError, LocalGraph
from gateway.triton.tensorrt.keys import TOLERANCE


def check_half(folder: Path, half: Path) -> str:
    """half: the copy of folder's graph. Blocks; ONNX Runtime runs it here, with the tolerance of an FP16 engine.

    A sentence where it does not say what torch said, else nothing. Raises: OSError, ValueError of the reference.
    """
    with tempfile.TemporaryDirectory(prefix="parley-half-") as name:
        copy = Path(name) / folder.name
        (copy / "1").mkdir(parents=True)
        (copy / "graph.json").symlink_to((folder / "graph.json").resolve())
        (copy / "1" / "model.onnx").symlink_to(half.resolve())
        try:
            graph = LocalGraph(copy)
        except GraphError as error:
            return f"{folder.name} does not stand FP16: {error}"
        tolerance = graph.spec.tolerance * TOLERANCE["fp16"]
        rows = compare(graph.spec, load(folder / "reference.npz"), graph.run, tolerance=tolerance)
    missed = [row for row in rows if not row.ok]
    if not missed:
        return ""
    worst = max(missed, key=lambda row: row.difference)
    return (
        f"{folder.name} does not stand FP16: its {worst.output} differs from torch's by {worst.difference:.2g} in "
        f"{len(missed)} of {len(rows)} comparisons"
    )
