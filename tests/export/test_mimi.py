"""Mimi's decoder in steps, held against MimiModel.decode of everything at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import MimiConfig, MimiModel

from gateway.triton.exported.description import from_json
from parley_export.__main__ import export
from parley_export.checkpoint import ExportError, open_checkpoint
from parley_export.families import mimi
from parley_export.mimi_step import MimiStep
from parley_export.onnx_graph import ort_run

torch.set_num_threads(1)
FRAMES = 23
WHOLE_TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def model():  # type: ignore[no-untyped-def]
    checkpoint = open_checkpoint("mimi", "random:small")
    return checkpoint.model(MimiModel, MimiConfig(**mimi.SMALL), enliven=lambda made: mimi.enliven(made, 0))


@pytest.fixture(scope="module")
def step(model) -> MimiStep:  # type: ignore[no-untyped-def]
    return MimiStep(model, 8).eval()


@pytest.fixture(scope="module")
def codes() -> torch.Tensor:
    return torch.randint(0, 64, (2, 8, FRAMES), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def whole(model, codes: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def]
    with torch.no_grad():
        return model.decode(codes).audio_values[:, 0]


def in_steps(step: MimiStep, codes: torch.Tensor, sizes: list[int], *, carry: bool = True) -> torch.Tensor:
    """States begin as NaN: START must do away with them."""
    rows, at, heard = len(codes), 0, []
    states = [torch.full((rows, *state.dims), torch.nan) for state in step.states]
    with torch.no_grad():
        for number, size in enumerate(sizes):
            start = torch.full((rows, 1), float(number == 0))
            audio, *new = step(codes[:, :, at : at + size], start, *states)
            states = new if carry else [torch.zeros_like(state) for state in new]
            at += size
            heard.append(audio)
    return torch.cat(heard, 1)


def test_a_voice_with_random_weights_is_heard(whole: torch.Tensor) -> None:
    assert 0.03 < float(whole.std()) < 0.3


@pytest.mark.parametrize("sizes", [[FRAMES], [1] * FRAMES, [4] * 5 + [3], [12, 11], [2, 1, 7, 3, 10]])
def test_steps_say_what_the_whole_says(
    step: MimiStep, codes: torch.Tensor, whole: torch.Tensor, sizes: list[int]
) -> None:
    """46 positions pass a window of ten."""
    heard = in_steps(step, codes, sizes)
    assert heard.shape == whole.shape == (2, FRAMES * step.samples)
    assert float((heard - whole).abs().max()) < WHOLE_TOLERANCE


def test_without_its_states_it_is_another_sound(
    step: MimiStep, codes: torch.Tensor, whole: torch.Tensor
) -> None:
    assert float((in_steps(step, codes, [4] * 5 + [3], carry=False) - whole).abs().max()) > 0.05


def test_transformers_own_streaming_is_not_the_whole(model, codes, whole) -> None:  # type: ignore[no-untyped-def]
    """It carries the transformer's cache, not the convolutions': why the step graph is needed."""
    cache, heard = None, []
    with torch.no_grad():
        for at in range(0, FRAMES, 4):
            made = model.decode(codes[:, :, at : at + 4], decoder_past_key_values=cache, use_cache=True)
            cache = made.decoder_past_key_values
            heard.append(made.audio_values[:, 0])
    assert cache is not None
    assert float((torch.cat(heard, 1) - whole).abs().max()) > 0.05


def test_rows_begin_while_others_run(step: MimiStep, codes: torch.Tensor, whole: torch.Tensor) -> None:
    """The second row begins three steps after the first, in the same batches."""
    late, size = 3, 2
    states = [torch.full((2, *state.dims), torch.nan) for state in step.states]
    heard: list[list[torch.Tensor]] = [[], []]
    with torch.no_grad():
        for number in range(9):
            own = [number, max(0, number - late)]
            fed = torch.stack([codes[row, :, at * size : (at + 1) * size] for row, at in enumerate(own)])
            start = torch.tensor([[float(number == 0)], [float(number in (0, late))]])
            audio, *states = step(fed, start, *states)
            for row in (0, 1):
                heard[row].append(audio[row])
    first, second = torch.cat(heard[0]), torch.cat(heard[1][late:])
    assert float((first - whole[0, : len(first)]).abs().max()) < WHOLE_TOLERANCE
    assert float((second - whole[1, : len(second)]).abs().max()) < WHOLE_TOLERANCE


def test_fewer_codebooks_are_those_that_decode_is_given(model, codes, step) -> None:  # type: ignore[no-untyped-def]
    few = MimiStep(model, 3).eval()
    with torch.no_grad():
        whole = model.decode(codes[:, :3]).audio_values[:, 0]
    assert float((in_steps(few, codes[:, :3], [5, 18]) - whole).abs().max()) < WHOLE_TOLERANCE


def test_shared_keys_and_a_shortcut_are_known() -> None:
    settings = mimi.SMALL | {"num_attention_heads": 4, "num_key_value_heads": 2, "use_conv_shortcut": True}
    torch.manual_seed(1)
    model = MimiModel(MimiConfig(**settings)).eval()
    with torch.no_grad():
        mimi.enliven(model, 1)
        codes = torch.randint(0, 64, (1, 8, 9))
        whole = model.decode(codes).audio_values[:, 0]
    assert float((in_steps(MimiStep(model, 8).eval(), codes, [2, 3, 4]) - whole).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("changed", "codebooks", "said"),
    [
        ({"use_causal_conv": False}, 8, "looks ahead"),
        ({"pad_mode": "replicate"}, 8, "looks ahead"),
        ({}, 9, "codebooks is 9"),
        ({}, 0, "codebooks is 0"),
    ],
)
def test_a_mimi_that_has_no_steps_is_refused(changed: dict[str, object], codebooks: int, said: str) -> None:
    model = MimiModel(MimiConfig(**(mimi.SMALL | changed)))
    with pytest.raises(ValueError, match=said):
        MimiStep(model, codebooks)


def test_what_is_exported_says_the_same(tmp_path: Path, codes: torch.Tensor, whole: torch.Tensor) -> None:
    front, graph = export("mimi", "random:small", tmp_path)
    spec = from_json((graph / "graph.json").read_text())
    assert spec.start == "start"
    assert (graph / "configs" / "implicit.pbtxt").exists()
    run = ort_run(spec, graph / "1" / "model.onnx")
    states = {state.input: np.full((2, *state.dims), 1e9, np.float32) for state in spec.states}
    heard, at = [], 0
    for size in (1, 3, 12, 7):
        fed = {"codes": codes[:, :, at : at + size].numpy(), "start": np.full((2, 1), at == 0, np.float32)}
        made = run(fed | states)
        states = {state.input: made[state.output] for state in spec.states}
        heard.append(made["audio"])
        at += size
    assert np.abs(np.concatenate(heard, 1) - whole.numpy()).max() < spec.tolerance
    told = json.loads((front / "1" / "front.json").read_text())
    assert told["tokens"]["order"] == list(range(8))
    assert told["graphs"] == {"decoder": graph.name}
    assert 'key: "llm"' in (front / "config.pbtxt").read_text()


def test_an_unknown_front_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="front=radio must be llm or none"):
        export("mimi", "random:small", tmp_path, chosen={"front": "radio"})
