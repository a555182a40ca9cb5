"""The exporter's common part, on graphs of a few weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2Model

from gateway.triton.exported.description import Axis, Graph, State, Tensor, check, from_json, to_json
from gateway.triton.exported.reference import compare, load, make_cases, outputs_of
from parley_export.__main__ import export, main
from parley_export.checkpoint import ExportError, open_checkpoint
from parley_export.exported import Exported, GraphExport
from parley_export.onnx_graph import ort_run, torch_run, write_graph
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


def _toy(step: Step) -> Exported:
    return Exported("toy", "asr", "toy", [GraphExport(STEP, step)], front={"kind": "toy"}, license="MIT")


def _parameters(front: Path) -> dict[str, str]:
    config = (front / "config.pbtxt").read_text("utf-8")
    return dict(re.findall(r'key: "(.*?)", value: { string_value: "(.*?)" }', config))


def test_what_is_written_says_nothing_of_this_machine(step: Step, tmp_path: Path) -> None:
    write(_toy(step), open_checkpoint("toy", "random:small"), tmp_path, say=lambda _: None)
    here = [str(Path(__file__).parents[2]), str(Path(torch.__file__).parents[1]), str(tmp_path)]
    for path in tmp_path.rglob("*"):
        written = path.read_bytes() if path.is_file() else b""
        assert not [one for one in here if one.encode() in written], path


def test_a_recogniser_is_described_for_routing(step: Step, tmp_path: Path) -> None:
    front, _ = write(_toy(step), open_checkpoint("toy", "random:small"), tmp_path, say=lambda _: None)
    found = _parameters(front)
    assert {"family", "tags", "needs_gpu", "memory_mb", "license"} <= set(found)
    assert "cpu" in found["tags"]


def test_a_repository_that_cannot_be_is_a_sentence(step: Step, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot write into"):
        write(_toy(step), open_checkpoint("toy", "random:small"), tmp_path / "file", say=lambda _: None)


@pytest.mark.parametrize("moves", range(4))
def test_what_fails_between_two_folders_leaves_the_older_export_whole(
    moves: int, step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, older, newer = open_checkpoint("toy", "random:small"), _toy(step), _toy(step)
    newer.license = "Apache-2.0"
    write(older, checkpoint, tmp_path, say=lambda _: None)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    rename, moved = os.rename, 0

    def fails_once(source: Path, target: Path) -> None:
        nonlocal moved
        moved += 1
        if moved == moves + 1:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_once)
    with pytest.raises(ExportError, match="No space left"):
        write(newer, checkpoint, tmp_path, say=lambda _: None)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_ended_from_outside_it_leaves_nothing_half_written(
    step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: object) -> None:
        assert list(tmp_path.iterdir())
        os.kill(os.getpid(), signal.SIGTERM)

    family = SimpleNamespace(export=lambda *_: _toy(step))
    monkeypatch.setitem(sys.modules, "parley_export.families.vits", family)
    monkeypatch.setattr("parley_export.write.write_graph", ended)
    monkeypatch.setattr(sys, "argv", ["export", "vits", "random:small", "--out", str(tmp_path)])
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit):
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("head", "license"),
    [
        ("---\nlicense: cc-by-nc-4.0\n---\n# A voice", "CC-BY-NC-4.0"),
        (
            "---\nlicense: other\nlicense_name: nvidia-open-model-license\n---\n",
            "LicenseRef-NVIDIA-Open-Model",
        ),
        ("---\n: [\n---\n", "CC-BY-4.0"),
        ("# Only words. license: mit", "CC-BY-4.0"),
    ],
)
def test_the_model_card_says_the_licence_and_the_family_only_where_it_does_not(
    head: str, license: str, step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = _toy(step)
    known.license = "CC-BY-4.0"
    monkeypatch.setitem(sys.modules, "parley_export.families.vits", SimpleNamespace(export=lambda *_: known))
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "README.md").write_text(head, "utf-8")
    front, _ = export("vits", str(tmp_path / "checkpoint"), tmp_path / "models")
    assert _parameters(front)["license"] == license
    assert json.loads((front / "provenance.json").read_text("utf-8"))["license"] == license


def test_weights_that_are_cut_short_are_a_sentence(tmp_path: Path) -> None:
    config = GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=16, n_positions=8)
    GPT2Model(config).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    checkpoint = open_checkpoint("toy", str(tmp_path))
    with pytest.raises(ExportError, match="holds no toy that can be read"):
        checkpoint.model(GPT2Model, checkpoint.config(GPT2Config, {}))
    (tmp_path / "config.json").write_text('{"model_type": "gp', "utf-8")
    with pytest.raises(ExportError, match="holds no toy that can be read"):
        checkpoint.config(GPT2Config, {})


def test_codec_weights_that_are_cut_short_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", "utf-8")
    (tmp_path / "pytorch_model.bin").write_bytes(b"cut")
    with pytest.raises(ExportError, match="holds no SNAC decoder"):
        export("snac", str(tmp_path), tmp_path / "models")
    assert not (tmp_path / "models").exists()


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


SAY = Tensor("OUT", "FP32", ("samples",))
LONG = Graph("long", (Tensor("X", "FP32", ("T",)),), (SAY,), axes=(Axis("T", 1, 3, 9),), max_batch=4)


class Longer(nn.Module):
    def forward(self, x):  # type: ignore[no-untyped-def]
        return 2 * x.repeat_interleave(5, 1)


def test_the_range_of_an_output_is_written_down_by_the_rule_that_it_keeps(tmp_path: Path) -> None:
    one = GraphExport(LONG, Longer())
    write_graph(one, tmp_path)
    assert one.graph.derived == (Axis("samples", 5, 15, 45),)
    assert from_json(to_json(one.graph)) == one.graph


def test_an_output_of_no_known_range_is_not_written(tmp_path: Path) -> None:
    class Squared(nn.Module):
        def forward(self, x):  # type: ignore[no-untyped-def]
            return (x[:, :, None] * x[:, None]).flatten(1)

    with pytest.raises(ExportError, match="axis samples of an output has no range written down"):
        write_graph(GraphExport(LONG, Squared()), tmp_path)
    told = replace(LONG, derived=(Axis("samples", 1, 9, 80),))
    with pytest.raises(ExportError, match="OUT: samples is 81, not 1 to 80"):
        write_graph(GraphExport(told, Squared()), tmp_path)
    whole = GraphExport(replace(LONG, derived=(Axis("samples", 1, 9, 81),)), Squared())
    write_graph(whole, tmp_path)


def test_an_output_outside_its_range_is_a_miss(tmp_path: Path) -> None:
    one = GraphExport(LONG, Longer())
    cases, _ = write_graph(one, tmp_path)
    narrow = replace(one.graph, derived=(Axis("samples", 5, 15, 40),))
    missed = [row for row in compare(narrow, cases, torch_run(narrow, Longer())) if not row.ok]
    assert {row.output for row in missed} == {"OUT: samples is 45, not 5 to 40"}


def test_a_range_too_wide_for_a_profile_is_not_written(tmp_path: Path) -> None:
    wide = replace(LONG, axes=(Axis("T", 1, 3, 1 << 25),))
    cases = make_cases(replace(LONG, axes=(Axis("T", 1, 3, 9),)))
    with pytest.raises(
        ExportError, match=r"OUT may hold 167772160 values .* make the range of samples smaller"
    ):
        write_graph(GraphExport(wide, Longer(), cases=cases), tmp_path)
    beyond = replace(LONG, axes=(Axis("T", 1, 3, 8),))
    with pytest.raises(ExportError, match=r"in case .* X: T is 9, not 1 to 8"):
        write_graph(GraphExport(beyond, Longer(), cases=make_cases(LONG)), tmp_path)


def _two_graphs(step: Step) -> Exported:
    made = _toy(step)
    made.graphs.append(GraphExport(LONG, Longer()))
    return made


def test_graphs_that_an_export_has_no_more_are_removed_and_no_others(step: Step, tmp_path: Path) -> None:
    checkpoint = open_checkpoint("toy", "random:small")
    said: list[str] = []
    write(_two_graphs(step), checkpoint, tmp_path, say=said.append)
    write(_two_graphs(step), checkpoint, tmp_path, name="asr_other", say=said.append)
    shutil.copytree(tmp_path / "graph_asr_toy_long", tmp_path / "graph_asr_toy_mine")
    before = {path.name for path in tmp_path.iterdir()}
    write(_toy(step), checkpoint, tmp_path, say=said.append)
    assert {path.name for path in tmp_path.iterdir()} == before - {"graph_asr_toy_long"}
    assert "graph_asr_toy_long is no part of it any more: removed" in said


def test_a_graph_that_another_front_uses_or_that_was_changed_stays(step: Step, tmp_path: Path) -> None:
    checkpoint = open_checkpoint("toy", "random:small")
    write(_two_graphs(step), checkpoint, tmp_path, say=lambda _: None)
    shutil.copytree(tmp_path / "asr_toy", tmp_path / "asr_copy")
    write(_toy(step), checkpoint, tmp_path, say=lambda _: None)
    write(_toy(step), checkpoint, tmp_path, name="asr_copy", say=lambda _: None)
    assert (tmp_path / "graph_asr_toy_long").exists(), "another front named it"
    write(_two_graphs(step), checkpoint, tmp_path, name="asr_own", say=lambda _: None)
    description = tmp_path / "graph_asr_own_long" / "graph.json"
    description.write_text(description.read_text() + " ")
    write(_toy(step), checkpoint, tmp_path, name="asr_own", say=lambda _: None)
    assert description.exists(), "it is not what the export wrote"


def test_what_a_crash_left_behind_of_an_older_export_goes_with_the_next(
    step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint("toy", "random:small")
    write(_two_graphs(step), checkpoint, tmp_path, say=lambda _: None)
    rename = os.rename

    def fails(source: Path, target: Path) -> None:
        if Path(source).name == "graph_asr_toy_long":
            raise OSError(5, "Input/output error")
        rename(source, target)

    with monkeypatch.context() as broken:
        broken.setattr(os, "rename", fails)
        write(_toy(step), checkpoint, tmp_path, say=lambda _: None)
    assert (tmp_path / "graph_asr_toy_long").exists()
    write(_toy(step), checkpoint, tmp_path, say=lambda _: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asr_toy", "graph_asr_toy_step"]


def test_an_option_that_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="zipformer has no option langauge; it has precision"):
        export("zipformer", "random:small", tmp_path, chosen={"langauge": "de"})
    with pytest.raises(ExportError, match="max_batch=many must be a whole number from 1 to 1024"):
        export("zipformer", "random:small", tmp_path, chosen={"max_batch": "many"})


MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy of this software"


@pytest.mark.parametrize(
    ("called", "files", "license"),
    [
        ("", {}, "LicenseRef-unknown"),
        ("somebody/parakeet-finetuned", {}, "LicenseRef-unknown"),
        ("nvidia/parakeet-ctc-1.1b", {}, "CC-BY-4.0"),
        ("/home/me/nvidia/parakeet", {}, "LicenseRef-unknown"),
        ("nvidia/parakeet-ctc-1.1b", {"README.md": "---\nlicense: cc-by-nc-4.0\n---\n"}, "CC-BY-NC-4.0"),
        ("", {"LICENSE": MIT}, "MIT"),
    ],
)
def test_the_published_licence_is_only_of_what_its_publisher_published(
    called: str, files: dict[str, str], license: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    checkpoint = open_checkpoint("parakeet-ctc", str(tmp_path), called=called)
    assert checkpoint.licensed("CC-BY-4.0", "nvidia") == license
    assert open_checkpoint("toy", "random:small").licensed("CC-BY-4.0", "nvidia") == "CC0-1.0"


def test_an_unknown_licence_says_why(step: Step, tmp_path: Path) -> None:
    made = _toy(step)
    made.license = ""
    front, _ = write(made, open_checkpoint("toy", "random:small"), tmp_path, say=lambda _: None)
    assert (front / "LICENSE").read_text() == "LicenseRef-unknown: not stated by the checkpoint\n"
