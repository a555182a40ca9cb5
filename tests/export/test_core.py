"""The exporter's common part, on graphs of a few weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gateway.triton.exported.description import Axis, Graph, State, Tensor, check, from_json, to_json
from gateway.triton.exported.reference import compare, load, make_cases, outputs_of
from parley_export.checkpoint import ExportError, open_checkpoint
from parley_export.exported import Exported, GraphExport
from parley_export.onnx_graph import ort_run, write_graph
from parley_export.write import write

STEP = Graph(
    "step",
    inputs=(Tensor("FEATURES", "FP32", (4,)), Tensor("NOISE", "FP32", ("T",))),
    outputs=(Tensor("OUT", "FP32", (4,)), Tensor("COUNT", "INT64", (1,))),
    states=(State("state_00_sum", "new_00_sum", (4,)), State("state_01_count", "new_01_count", (1,))),
    start="START",
    axes=(Axis("T", 1, 3, 9),),
    max_batch=8,
    exact=("COUNT",),
)


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 4)

    def forward(self, features, noise, start, total, count):  # type: ignore[no-untyped-def]
        total, count = total * (start < 0.5), count * (start < 0.5)
        total = torch.tanh(0.5 * total + self.mix(features)) + noise.mean(1, keepdim=True)
        count = count + 1
        return 2 * total, count.to(torch.int64), total, count


class Deaf(Step):
    def forward(self, features, noise, start, total, count):  # type: ignore[no-untyped-def]
        return super().forward(features, noise, start, total + 0.01 * torch.relu(count - 2), count)


class Noisy(Step):
    def forward(self, features, noise, start, total, count):  # type: ignore[no-untyped-def]
        return super().forward(features + 0.0001 * torch.randn_like(features), noise, start, total, count)


@pytest.fixture
def step() -> Step:
    torch.manual_seed(0)
    return Step().eval()


def test_an_exported_graph_says_what_torch_says(step: Step, tmp_path: Path) -> None:
    cases, rows = write_graph(GraphExport(STEP, step), tmp_path)
    assert len(rows) > 50
    assert all(row.ok for row in rows)
    assert {len(case.steps[0]["START"]) for case in cases} == {1, 3}


def test_rows_start_while_others_run(step: Step, tmp_path: Path) -> None:
    cases, _ = write_graph(GraphExport(STEP, step), tmp_path)
    case = next(case for case in cases if len(case.steps[0]["START"]) == 3)
    starts = np.stack([one["START"][:, 0] for one in case.steps])
    assert starts.sum(0).tolist() == [1, 2, 2]
    assert (case.expected[2]["COUNT"][:, 0] == [3, 1, 3]).all()


@pytest.mark.parametrize("module", [Noisy, Deaf])
def test_a_graph_that_says_something_else_is_not_written(
    module: type[Step], step: Step, tmp_path: Path
) -> None:
    broken = module().eval()
    broken.load_state_dict(step.state_dict())
    write_graph(GraphExport(STEP, step), tmp_path)
    cases, _ = write_graph(GraphExport(STEP, step), tmp_path)
    if module is Noisy:
        with pytest.raises(ExportError, match="draws noise of its own"):
            write_graph(GraphExport(STEP, broken), tmp_path)
    else:
        with pytest.raises(ExportError, match="differ"):
            write_graph(GraphExport(STEP, broken, cases=cases), tmp_path)


def test_a_description_survives_being_written() -> None:
    assert from_json(to_json(STEP)) == STEP


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (replace(STEP, axes=()), "no range"),
        (replace(STEP, start=""), "START"),
        (replace(STEP, states=(State("state_1", "a_1", (1,)), State("state_10", "b_10", (1,)))), "prefix"),
        (replace(STEP, inputs=(*STEP.inputs, Tensor("OUT", "FP32", (1,)))), "twice"),
    ],
)
def test_a_description_that_breaks_a_rule_is_refused(changed: Graph, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check(changed)


def test_an_export_is_folders_for_triton(step: Step, tmp_path: Path) -> None:
    checkpoint = open_checkpoint("toy", "random:small")
    exported = Exported("toy", "asr", "toy", [GraphExport(STEP, step)], front={"kind": "toy"}, license="MIT")
    for _ in range(2):  # the second takes the place of the first
        folders = write(exported, checkpoint, tmp_path, say=lambda _: None)
    assert [folder.name for folder in folders] == ["asr_toy", "graph_asr_toy_step"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asr_toy", "graph_asr_toy_step"]
    told = json.loads((tmp_path / "asr_toy" / "provenance.json").read_text())
    assert told["parity"]["step"]["worst_difference"] <= STEP.tolerance
    graph = tmp_path / "graph_asr_toy_step"
    cases = load(graph / "reference.npz")
    assert all(row.ok for row in compare(STEP, cases, ort_run(STEP, graph / "1" / "model.onnx")))


def test_a_folder_that_somebody_else_made_is_left_alone(step: Step, tmp_path: Path) -> None:
    (tmp_path / "asr_toy").mkdir()
    (tmp_path / "asr_toy" / "mine").touch()
    exported = Exported("toy", "asr", "toy", [GraphExport(STEP, step)], front={"kind": "toy"})
    with pytest.raises(ExportError, match="not made by an export"):
        write(exported, open_checkpoint("toy", "random:small"), tmp_path, say=lambda _: None)
    assert (tmp_path / "asr_toy" / "mine").exists()


def test_cases_are_the_same_whoever_makes_them() -> None:
    one, other = make_cases(STEP), make_cases(STEP)
    for a, b in zip(one, other, strict=True):
        assert a.name == b.name
        assert all((x[k] == y[k]).all() for x, y in zip(a.steps, b.steps, strict=True) for k in x)


def test_what_a_starting_row_finds_in_its_states_is_garbage(step: Step) -> None:
    seen = []

    def run(feeds):  # type: ignore[no-untyped-def]
        seen.append(np.abs(feeds["state_00_sum"]).max())
        return {n: np.zeros((len(feeds["START"]), 4), np.float32) for n in STEP.output_names}

    list(outputs_of(STEP, make_cases(STEP)[0], run))
    assert seen[0] > 1
