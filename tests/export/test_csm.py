"""Sesame CSM frame by frame, held against transformers' own generate; LoRA adapters merged into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gateway.triton.models.exported import Folder
from gateway.triton.models.tts.generated import GeneratedVoice
from parley_export import lora
from parley_export.__main__ import export
from parley_export.checkpoint import ExportError

torch.set_num_threads(1)
TEXT = "Good morning."


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (made,) = export("csm", "random:small", tmp_path_factory.mktemp("csm"), chosen={"temperature": "0"})
    return made


@pytest.fixture(scope="module")
def voice(model_folder: Path) -> GeneratedVoice:
    return GeneratedVoice(Folder(model_folder / "1"))


@pytest.fixture(scope="module")
def csm(voice: GeneratedVoice) -> Any:
    return voice._generator


def test_frames_are_those_that_generate_says(csm: Any) -> None:
    frames = torch.stack(list(csm.frames(TEXT, "0", None, None)))
    ids = torch.tensor([csm._tokenizer(f"[0]{TEXT}")])
    theirs = csm._model.generate(
        input_ids=ids, do_sample=False, depth_decoder_do_sample=False, max_new_tokens=len(frames)
    )
    assert (theirs[0] == frames).all()
    assert len(torch.unique(frames)) > 40, "it does not say one thing for ever"


def test_its_sound_is_that_of_all_frames_at_once(csm: Any, voice: GeneratedVoice) -> None:
    frames = torch.stack(list(csm.frames(TEXT, "0", None, None)))
    with torch.no_grad():
        whole = csm._model.codec_model.decode(frames.T[None]).audio_values[0, 0].numpy()
    chunks = list(csm.speak(TEXT, voice.voices[0], None))
    assert len(chunks[0]) == 1920, "the first chunk is one frame"
    assert np.abs(np.concatenate(chunks) - whole).max() < 5e-5
    assert 0.03 < whole.std() < 0.3


def test_speakers_texts_and_references_sound_different(csm: Any, voice: GeneratedVoice) -> None:
    first, second = voice.voices
    reference = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) / 10
    said = [
        np.concatenate(list(csm.speak(text, who, heard)))[:20_000]
        for text, who, heard in (
            (TEXT, first, None), (TEXT, second, None), ("Good evening.", first, None), (TEXT, first, reference),
            (TEXT, first, reference[:8_000]),
        )
    ]  # fmt: skip
    for at, one in enumerate(said):
        assert all(np.abs(one - other).max() > 0.05 for other in said[at + 1 :])


def test_closed_it_says_nothing_more(csm: Any, voice: GeneratedVoice) -> None:
    stream = csm.speak(TEXT * 20, voice.voices[0], None)
    next(stream)
    stream.close()
    assert next(stream, None) is None


def test_sampling_comes_from_the_seed(csm: Any) -> None:
    hot = csm._sampling
    csm._sampling = {"temperature": 1.0, "depth_temperature": 1.0, "top_k": 50}
    try:
        said = [
            torch.stack(list(csm.frames(TEXT, "0", None, torch.Generator().manual_seed(seed))))
            for seed in (1, 1, 2)
        ]
    finally:
        csm._sampling = hot
    assert (said[0] == said[1]).all()
    assert (said[0][:5] != said[2][:5]).any()


def adapter(folder: Path, rank: int = 4, **changed: Any) -> Path:
    """One over two matrices of the small model, as peft writes it."""
    draw = torch.Generator().manual_seed(9)
    weights = {}
    for name, out in (
        ("backbone_model.layers.0.self_attn.q_proj", 64),
        ("backbone_model.layers.1.mlp.down_proj", 64),
    ):
        wide = 64 if "q_proj" in name else 128
        weights[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, wide, generator=draw) * 0.1
        weights[f"base_model.model.{name}.lora_B.weight"] = torch.randn(out, rank, generator=draw) * 0.1
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "bias": "none"} | changed
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


@pytest.mark.parametrize("stabilised", [False, True])
def test_a_lora_is_added_as_its_formula_says(csm: Any, tmp_path: Path, stabilised: bool) -> None:
    weight = csm._model.get_submodule("backbone_model.layers.0.self_attn.q_proj").weight
    folder = adapter(tmp_path / "lora", use_rslora=stabilised)
    before = {name: one.clone() for name, one in csm._model.state_dict().items()}
    try:
        assert lora.merge(csm._model, folder) == 2
        x = torch.randn(3, 64)
        held = load_file(folder / "adapter_model.safetensors")
        name = "base_model.model.backbone_model.layers.0.self_attn.q_proj"
        low = x @ held[f"{name}.lora_A.weight"].T @ held[f"{name}.lora_B.weight"].T
        wanted = x @ before["backbone_model.layers.0.self_attn.q_proj.weight"].T + low * (
            4 if stabilised else 2
        )
        assert torch.allclose(x @ weight.T, wanted, atol=1e-4)
        changed = [
            name for name, one in csm._model.state_dict().items() if not torch.equal(one, before[name])
        ]
        assert len(changed) == 2
    finally:
        csm._model.load_state_dict(before)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "more than a plain LoRA"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_more_than_a_plain_lora_is_refused(
    csm: Any, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(ExportError, match=said):
        lora.merge(csm._model, adapter(tmp_path / "lora", **changed))


def test_a_lora_for_another_model_is_refused(csm: Any, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "lora")
    save_file(
        {f"base_model.model.lm_head.lora_{side}.weight": torch.ones(4, 4) for side in "AB"},
        folder / "adapter_model.safetensors",
    )
    with pytest.raises(ExportError, match="the model's matrix"):
        lora.merge(csm._model, folder)
    save_file(
        {"base_model.model.encoder.lora_A.weight": torch.ones(4, 4)}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(ExportError, match="no counterpart"):
        lora.merge(csm._model, folder)
    with pytest.raises(ExportError, match="holds no LoRA"):
        lora.merge(csm._model, tmp_path)


def test_an_export_with_a_lora_speaks_otherwise(csm: Any, model_folder: Path, tmp_path: Path) -> None:
    (made,) = export(
        "csm", "random:small", tmp_path, chosen={"temperature": "0", "lora": str(adapter(tmp_path / "lora"))}
    )
    other: Any = GeneratedVoice(Folder(made / "1"))._generator
    ours, theirs = (torch.stack(list(one.frames(TEXT, "0", None, None))) for one in (csm, other))
    assert (ours[:10] != theirs[:10]).any()
