"""A torch module and its description become a checked ONNX file with a recorded reference."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from gateway.triton.exported.description import Graph, check
from gateway.triton.exported.ranges import with_ranges
from gateway.triton.exported.reference import NUMPY, Case, Feeds, Row, Run, compare, make_cases, record
from parley_export.checkpoint import ExportError
from parley_export.exported import GraphExport

OPSET = 20
LARGE_BYTES = 1 << 30
"""A graph with more weights than this keeps them in a file beside it: protobuf ends at 2 GiB."""
_TORCH = {
    "FP32": torch.float32, "FP16": torch.float16, "INT64": torch.int64, "INT32": torch.int32, "BOOL": torch.bool,
}  # fmt: skip


def write_graph(export: GraphExport, folder: Path) -> tuple[list[Case], list[Row]]:
    """model.onnx into `folder`; its recorded cases, and ONNX Runtime held against them. The description is completed
    with the ranges of its outputs.

    Raises: ExportError when the graph breaks a rule or does not say what torch says.
    """
    graph = export.graph
    try:
        check(graph)
    except ValueError as error:
        raise ExportError(str(error)) from None
    path = folder / export.filename
    cases = export.cases if export.cases is not None else make_cases(graph)
    if export.path is not None:
        path.write_bytes(export.path.read_bytes())
    elif export.module is not None:
        _to_onnx(export, cases, path)
    if path.suffix == ".onnx":
        _check_file(graph, path)
    ort = ort_run(graph, path)
    # A ready-made graph without a module of its own is its own reference: what it says today.
    reference = torch_run(graph, export.module) if export.module is not None else ort
    for case in cases:
        if not case.expected:
            record(graph, case, reference)
    try:
        export.graph = graph = with_ranges(graph, cases)
    except ValueError as error:
        raise ExportError(str(error)) from None
    rows = compare(graph, cases, ort)
    missed = [row for row in rows if not row.ok]
    if missed:
        worst = max(missed, key=lambda row: row.difference)
        raise ExportError(
            f"graph {graph.name}: ONNX Runtime and torch differ in {len(missed)} of {len(rows)} outputs; worst "
            f"{worst.output} by {worst.difference:.3g} (at most {worst.tolerance:g}) in case {worst.case}, "
            f"step {worst.step}"
        )
    return cases, rows


def torch_run(graph: Graph, module: torch.nn.Module) -> Run:
    def run(feeds: Feeds) -> Mapping[str, NDArray[Any]]:
        with torch.no_grad():
            made = module(
                *(torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in graph.input_names)
            )
        made = made if isinstance(made, (tuple, list)) else (made,)
        return {name: one.numpy() for name, one in zip(graph.output_names, made, strict=True)}

    return run


def ort_run(graph: Graph, path: Path, threads: int = 1, *, optimised: bool = True) -> Run:
    """`run` of a graph's cases in ONNX Runtime. Raises: ExportError when the file lacks an input."""
    options = onnxruntime.SessionOptions()
    if not optimised:  # for a graph that is run a few times only
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    known = {tensor.name for tensor in session.get_inputs()}
    unused = [name for name in graph.input_names if name not in known]
    if unused:
        raise ExportError(f"graph {graph.name}: the ONNX file has no input {', '.join(unused)}")

    def run(feeds: Feeds) -> Mapping[str, NDArray[Any]]:
        made = session.run(graph.output_names, {name: feeds[name] for name in graph.input_names})
        return dict(zip(graph.output_names, made, strict=True))

    return run


def _to_onnx(export: GraphExport, cases: list[Case], path: Path) -> None:
    graph, module = export.graph, export.module
    assert module is not None
    args = _example(graph, cases)
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module.eval(),
                args,
                str(path),
                input_names=graph.input_names,
                output_names=graph.output_names,
                opset_version=OPSET,
                external_data=size > LARGE_BYTES,
                verbose=False,
                **(
                    {"dynamo": True, "dynamic_shapes": _dynamic(graph, module)}
                    if export.dynamo
                    else _traced(graph)
                ),
            )
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ExportError(f"graph {graph.name} could not be exported: {first}") from error
    _forget_origin(path)


def _forget_origin(path: Path) -> None:
    """torch notes at every node which line of which file of this machine it is from: that tells others where things
    lie here, takes a third of a small graph, and gives the same export another checksum in another folder."""
    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    for function in model.functions:
        del function.metadata_props[:]
    told = (*_nodes(graph), *(node for function in model.functions for node in function.node))
    for one in (model, graph, *told, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        del one.metadata_props[:]
        one.doc_string = ""
    path.write_bytes(model.SerializeToString())


def _example(graph: Graph, cases: list[Case]) -> tuple[torch.Tensor, ...]:
    """The usual case with more than one row: a dimension of 1 would be taken for fixed."""
    case = max(cases, key=lambda one: (("usual" in one.name), _rows(one)))
    feeds = dict(case.steps[0])
    rows = _rows(case)
    for state in graph.states:
        feeds[state.input] = np.zeros((rows, *state.dims), np.float32)
    return tuple(torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in graph.input_names)


def _rows(case: Case) -> int:
    return len(next(iter(case.steps[0].values()), np.zeros(1)))


def _dynamic(graph: Graph, module: torch.nn.Module) -> tuple[Any, ...]:
    """As many as `forward` has parameters; those of `*states` together, as torch.export wants them.

    Ranges are left to the exporter: a range that a graph's own arithmetic narrows would be refused."""
    dims: dict[str, Any] = {axis.name: torch.export.Dim.DYNAMIC for axis in graph.axes}
    told = []
    for tensor in graph.all_inputs():
        offset = 1 if graph.max_batch else 0
        shape: dict[int, Any] = {0: torch.export.Dim.DYNAMIC} if graph.max_batch > 1 else {}
        shape |= {at + offset: dims[dim] for at, dim in enumerate(tensor.dims) if isinstance(dim, str)}
        told.append(shape)
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        return (*told[:named], tuple(told[named:]))
    return tuple(told)


def _traced(graph: Graph) -> dict[str, Any]:
    offset = 1 if graph.max_batch else 0
    axes = {}
    for tensor in (*graph.all_inputs(), *graph.all_outputs()):
        named = {at + offset: dim for at, dim in enumerate(tensor.dims) if isinstance(dim, str)}
        axes[tensor.name] = ({0: "batch"} if graph.max_batch > 1 else {}) | named
    return {"dynamo": False, "dynamic_axes": {name: dims for name, dims in axes.items() if dims}}


def _check_file(graph: Graph, path: Path) -> None:
    model = onnx.load(str(path), load_external_data=False)
    onnx.checker.check_model(str(path))
    noisy = sorted({node.op_type for node in _nodes(model.graph) if node.op_type.startswith("Random")})
    if noisy:
        raise ExportError(
            f"graph {graph.name} draws noise of its own ({', '.join(noisy)}): it must be an input"
        )
    types = {onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)): name for name, kind in NUMPY.items()}
    found = {value.name: value.type.tensor_type for value in (*model.graph.input, *model.graph.output)}
    for tensor in (*graph.all_inputs(), *graph.all_outputs()):
        its = found.get(tensor.name)
        if its is None:
            raise ExportError(f"graph {graph.name}: the ONNX file has no tensor {tensor.name}")
        if types.get(its.elem_type) != tensor.dtype:
            raise ExportError(f"graph {graph.name}: {tensor.name} is not {tensor.dtype} in the ONNX file")
        rank = len(tensor.dims) + bool(graph.max_batch)
        if its.HasField("shape") and len(its.shape.dim) != rank:
            raise ExportError(
                f"graph {graph.name}: {tensor.name} has {len(its.shape.dim)} dimensions in the ONNX file, "
                f"its description {rank}"
            )


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                nodes += _nodes(attribute.g)
    return nodes
