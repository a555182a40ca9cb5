"""What torch said to given inputs, kept beside a graph: whoever runs the graph later is held against it.

A case is one batch of sequences over one or more steps. The states of a sequence are carried by whoever runs
the case; only inputs and outputs are recorded, and the states after the last step. Before their first step the
states hold garbage: a graph must ignore what is in them where START is set.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.exported.description import LENGTH, Graph, Tensor

Feeds = dict[str, NDArray[Any]]
"""By tensor name, batch first where the graph has a batch dimension."""
Run = Callable[[Feeds], Mapping[str, NDArray[Any]]]

NUMPY = {"FP32": np.float32, "FP16": np.float16, "INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_}
GARBAGE = 3.0
STEPS = 5
RESTARTS = ((), (2,), (3,))
"""Of each row of a stateful case: the steps, after the first, on which its sequence begins anew."""
MAX_STATE_BYTES = 1 << 21
"""Final states of one case are recorded up to this size."""


@dataclass(slots=True)
class Case:
    name: str
    steps: list[Feeds]
    """Inputs and START of each step, without states."""
    expected: list[Feeds] = field(default_factory=list)
    """Outputs of each step; new states too in the last one."""


@dataclass(frozen=True, slots=True)
class Row:
    """One output of one step, held against what was recorded."""

    case: str
    step: int
    output: str
    difference: float
    """Largest absolute one; infinite where shapes differ or something is not finite."""
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.difference <= self.tolerance


def make_cases(graph: Graph, seed: int = 0) -> list[Case]:
    """Inputs over the whole range of the graph: each axis at its least, usual, three times that and at random;
    batches of unequal rows; rows that start while others run."""
    rng = np.random.default_rng(seed)
    sizes = {
        "least": {axis.name: axis.least for axis in graph.axes},
        "usual": {axis.name: axis.usual for axis in graph.axes},
        "three times": {axis.name: min(3 * axis.usual, axis.most) for axis in graph.axes},
        "random": {
            axis.name: int(rng.integers(axis.least, min(4 * axis.usual, axis.most) + 1))
            for axis in graph.axes
        },
    }
    if not graph.axes:
        sizes = {"usual": {}}
    if graph.states:
        rows = min(len(RESTARTS), graph.max_batch)
        return [
            Case(f"{name}, {count} in a batch", [_step(graph, rng, axes, count, s) for s in range(STEPS)])
            for name, axes in sizes.items()
            for count in sorted({1, rows})
        ]
    counts = sorted({1, min(3, graph.max_batch)}) if graph.max_batch else [0]
    return [
        Case(f"{name}, {count} in a batch" if count else name, [_inputs(graph, rng, axes, count)])
        for name, axes in sizes.items()
        for count in counts
        if count < 2 or name in ("usual", "random")
    ]


def _step(graph: Graph, rng: np.random.Generator, axes: Mapping[str, int], count: int, step: int) -> Feeds:
    feeds = _inputs(graph, rng, axes, count)
    starts = [step == 0 or step in RESTARTS[row] for row in range(count)]
    feeds[graph.start] = np.array(starts, np.float32).reshape(count, 1)
    return feeds


def _inputs(graph: Graph, rng: np.random.Generator, axes: Mapping[str, int], count: int) -> Feeds:
    return {tensor.name: _fill(tensor, rng, axes, count) for tensor in graph.inputs}


def _fill(tensor: Tensor, rng: np.random.Generator, axes: Mapping[str, int], count: int) -> NDArray[Any]:
    shape = [axes[dim] if isinstance(dim, str) else dim for dim in tensor.dims]
    if count:
        shape = [count, *shape]
    kind = NUMPY[tensor.dtype]
    if tensor.fill.startswith(LENGTH):
        whole = axes[tensor.fill.removeprefix(LENGTH)]
        values = rng.integers(min(1, whole), whole + 1, shape)
        values[:1] = whole
        return values.astype(kind)
    if tensor.fill == "integers" or tensor.dtype in ("INT32", "INT64"):
        return rng.integers(int(tensor.low), max(int(tensor.high), int(tensor.low) + 1), shape).astype(kind)
    if tensor.dtype == "BOOL":
        return rng.random(shape) < 0.5
    if tensor.fill == "uniform":
        return rng.uniform(tensor.low, tensor.high, shape).astype(kind)
    if tensor.fill in ("ones", "zeros"):
        return np.full(shape, float(tensor.fill == "ones"), kind)
    return rng.standard_normal(shape).astype(kind)


def outputs_of(graph: Graph, case: Case, run: Run) -> Iterator[Feeds]:
    """Runs the steps of a case one after the other with its states carried; yields all outputs of each."""
    states = _garbage(graph, case)
    for feeds in case.steps:
        made = dict(run({**feeds, **states}))
        yield made
        states = {state.input: made[state.output] for state in graph.states}


def record(graph: Graph, case: Case, run: Run) -> None:
    """Fills in what is expected, as `run` (torch) says it. Raises: ValueError where that is not finite."""
    case.expected = []
    names = {tensor.name for tensor in graph.outputs}
    all_outputs = list(outputs_of(graph, case, run))
    for number, made in enumerate(all_outputs):
        last = number + 1 == len(all_outputs)
        size = sum(made[state.output].nbytes for state in graph.states)
        wanted = names | ({s.output for s in graph.states} if last and size <= MAX_STATE_BYTES else set())
        for name in sorted(wanted):
            if made[name].dtype.kind == "f" and not np.isfinite(made[name]).all():
                raise ValueError(f"{graph.name}: {name} is not finite in case {case.name}, step {number}")
        case.expected.append({name: np.asarray(made[name]) for name in sorted(wanted)})


def compare(graph: Graph, cases: Sequence[Case], run: Run, *, tolerance: float | None = None) -> list[Row]:
    """Every recorded output against what `run` says. A step that fails is a row with an infinite difference, and so is
    an output outside the range that is written down of its axes."""
    return list(rows_of(graph, cases, run, tolerance=tolerance))


def rows_of(
    graph: Graph, cases: Sequence[Case], run: Run, *, tolerance: float | None = None
) -> Iterator[Row]:
    """`compare`, a row at a time: who looks for the first miss need not run the rest."""
    limit = graph.tolerance if tolerance is None else tolerance
    tensors = {tensor.name: tensor for tensor in graph.outputs}
    for case in cases:
        made = outputs_of(graph, case, run)
        for step, expected in enumerate(case.expected):
            try:
                outputs = next(made)
            except Exception as error:
                yield Row(case.name, step, f"{type(error).__name__}: {error}", float("inf"), limit)
                break
            for name, wanted in expected.items():
                if name in tensors and (why := outside(graph, tensors[name], outputs.get(name))):
                    yield Row(case.name, step, why, float("inf"), limit)
                    continue
                allowed = 0.0 if name in graph.exact or wanted.dtype.kind in "iub" else limit
                yield Row(case.name, step, name, difference(wanted, outputs.get(name)), allowed)


def difference(wanted: NDArray[Any], got: NDArray[Any] | None) -> float:
    """Largest absolute difference; infinite where the shapes differ or something is not finite."""
    if got is None or wanted.shape != got.shape:
        return float("inf")
    if not wanted.size:
        return 0.0
    apart = np.abs(wanted.astype(np.float64) - np.asarray(got).astype(np.float64))
    return float(apart.max()) if np.isfinite(apart).all() else float("inf")


def outside(graph: Graph, tensor: Tensor, got: NDArray[Any] | None) -> str:
    """Which axis is not within its range, and what it is; "" where all are, or nothing is known of them."""
    ranges = {axis.name: axis for axis in (*graph.axes, *graph.derived)}
    offset = 1 if graph.max_batch else 0
    if got is None or got.ndim != len(tensor.dims) + offset:
        return ""  # a miss of another kind
    for dim, size in zip(tensor.dims, got.shape[offset:], strict=True):
        axis = ranges.get(dim) if isinstance(dim, str) else None
        if axis is not None and not axis.least <= size <= axis.most:
            return f"{tensor.name}: {axis.name} is {size}, not {axis.least} to {axis.most}"
    return ""


def _garbage(graph: Graph, case: Case) -> Feeds:
    """The same for everybody who runs the case; a sequence that starts must not look at it."""
    rng = np.random.default_rng(zlib.crc32(f"{graph.name} {case.name}".encode()))
    count = len(next(iter(case.steps[0].values()))) if graph.states else 0
    return {
        state.input: (GARBAGE * rng.standard_normal((count, *state.dims))).astype(np.float32)
        for state in graph.states
    }


def save(path: Path, cases: Sequence[Case]) -> None:
    """As one .npz: `cases` names them, `<case>/<step>/in|out/<tensor>` holds them."""
    arrays: dict[str, NDArray[Any]] = {}
    told = []
    for number, case in enumerate(cases):
        told.append({"name": case.name, "steps": len(case.steps)})
        for step, feeds in enumerate(case.steps):
            arrays |= {f"{number}/{step}/in/{name}": value for name, value in feeds.items()}
        for step, outputs in enumerate(case.expected):
            arrays |= {f"{number}/{step}/out/{name}": value for name, value in outputs.items()}
    arrays["cases"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
    save_arrays(path, arrays)


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """A compressed .npz whose bytes depend on the arrays alone: the same export has the same checksums."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(  # type: ignore[no-untyped-call]
                member, np.asanyarray(arrays[name]), allow_pickle=False
            )
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED)


def load(path: Path) -> list[Case]:
    """Raises: ValueError when it is no reference, OSError."""
    arrays = load_arrays(path)
    try:
        told = json.loads(arrays.pop("cases").tobytes())
        cases = [Case(one["name"], [{} for _ in range(one["steps"])]) for one in told]
        for case, one in zip(cases, told, strict=True):
            case.expected = [{} for _ in range(one["steps"])]
        for key, value in arrays.items():
            number, step, side, name = key.split("/", 3)
            case = cases[int(number)]
            (case.steps if side == "in" else case.expected)[int(step)][name] = value
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no reference: {type(error).__name__} {error}") from None
    return cases


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All of an .npz. Raises: ValueError when it is none that can be read, OSError."""
    try:
        with zipfile.ZipFile(path) as file:
            return {
                name.removesuffix(".npy"): np.lib.format.read_array(  # type: ignore[no-untyped-call]
                    io.BytesIO(file.read(name)), allow_pickle=False
                )
                for name in file.namelist()
            }
    except (zipfile.BadZipFile, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path} cannot be read as arrays: {error}") from None
