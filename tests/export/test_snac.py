"""SNAC's decoder: its checkpoints' names, its rates, its windows, its graph."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from gateway.triton.exported.description import from_json
from parley_export.__main__ import export
from parley_export.checkpoint import ExportError, open_checkpoint
from parley_export.families import snac
from parley_export.onnx_graph import ort_run
from parley_export.snac_model import SnacConfig, SnacDecoder, plain

torch.set_num_threads(1)
FRAMES = 17


@pytest.fixture(scope="module")
def model() -> SnacDecoder:
    return plain(snac._model(open_checkpoint("snac", "random:small")))


@pytest.fixture(scope="module")
def spoken(model: SnacDecoder) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, noise, audio."""
    draw = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 64, (1, 7, FRAMES), generator=draw)
    noise = torch.randn(1, sum(model.config.noise_values), FRAMES, generator=draw)
    with torch.no_grad():
        return codes, noise, model(codes, noise)


def test_the_published_model_has_these_measures() -> None:
    config = SnacConfig()
    assert (config.latents, config.hop, config.samples, config.codes) == (768, 512, 2048, (1, 2, 4))
    assert config.noise_values == (32, 256, 1024, 2048)


def test_weights_have_the_names_of_published_checkpoints() -> None:
    """As the state_dict of the public package has them (snac 1.2.1, the same settings)."""
    names = set(SnacDecoder(SnacConfig.from_dict(snac.SMALL)).state_dict())
    norm = "parametrizations.weight.original"
    assert {
        f"decoder.model.0.{norm}0", f"decoder.model.1.{norm}1", "decoder.model.2.block.0.alpha",
        f"decoder.model.2.block.1.{norm}0", f"decoder.model.3.block.2.linear.{norm}1",
        f"decoder.model.5.block.5.block.3.{norm}1", "decoder.model.6.alpha", "decoder.model.7.bias",
        "quantizer.quantizers.2.codebook.weight", f"quantizer.quantizers.0.out_proj.{norm}0",
        "quantizer.quantizers.1.out_proj.bias",
    } <= names  # fmt: skip
    assert "decoder.model.2.block.2.linear.bias" not in names
    assert len(names) == 142


@pytest.mark.parametrize("older", [False, True])
def test_a_checkpoint_folder_is_read(
    older: bool, spoken: tuple[torch.Tensor, torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    """With the encoder beside the decoder, and with the names that torch's older weight norm gave."""
    source = snac._model(open_checkpoint("snac", "random:small"))
    weights = dict(source.state_dict())
    if older:
        endings = {
            "parametrizations.weight.original0": "weight_g",
            "parametrizations.weight.original1": "weight_v",
        }
        for ending, old in endings.items():
            weights = {key.replace(ending, old): value for key, value in weights.items()}
    weights |= {"encoder.block.0.bias": torch.ones(4), "quantizer.quantizers.0.in_proj.bias": torch.ones(8)}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(asdict(source.config)))
    codes, noise, audio = spoken
    found = plain(snac._model(open_checkpoint("snac", str(tmp_path))))
    with torch.no_grad():
        assert torch.allclose(found(codes, noise), audio, atol=1e-6)
    del weights["decoder.model.6.alpha"]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(ExportError, match=r"decoder\.model\.6\.alpha"):
        export("snac", str(tmp_path), tmp_path / "out")


def test_a_decoder_with_attention_is_refused(tmp_path: Path) -> None:
    (tmp_path / "music.json").write_text(json.dumps(snac.SMALL | {"attn_window_size": 32}))
    with pytest.raises(ExportError, match="without attention"):
        export("snac", f"random:{tmp_path}/music.json", tmp_path / "out")


def test_the_rows_of_a_frame_are_in_the_order_of_time(model: SnacDecoder) -> None:
    """What changes with the fastest codebook's codes lies a latent apart, with the next one's two."""
    codes = torch.zeros(1, 7, 9, dtype=torch.long)
    centres = []
    with torch.no_grad():
        quiet = model(codes)
        for row in range(7):
            changed = codes.clone()
            changed[0, row, 4] = 9
            strength = (model(changed) - quiet)[0].square()
            centres.append(float((strength * torch.arange(len(strength))).sum() / strength.sum()))
    assert centres[2] - centres[1] == pytest.approx(1024, abs=30)
    assert np.diff(centres[3:]) == pytest.approx([512] * 3, abs=30)


def test_windows_say_what_the_whole_says(
    model: SnacDecoder, spoken: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> None:
    codes, noise, whole = spoken
    before, after = snac.field(model)
    assert (before, after) == (3, 3)
    samples = model.config.samples
    for left, right, same in ((before, after, True), (before - 1, after, False), (before, after - 1, False)):
        heard = []
        for at in range(0, FRAMES, 2):
            first, last = max(0, at - left), min(FRAMES, at + 2 + right)
            with torch.no_grad():
                made = model(codes[:, :, first:last], noise[:, :, first:last])
            heard.append(made[:, (at - first) * samples :][:, : 2 * samples])
        worst = float((torch.cat(heard, 1)[:, : whole.shape[1]] - whole).abs().max())
        assert (worst < 1e-6) == same


def test_what_is_exported_says_the_same(
    spoken: tuple[torch.Tensor, torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    front, graph = export("snac", "random:small", tmp_path)
    spec = from_json((graph / "graph.json").read_text())
    codes, noise, whole = spoken
    made = ort_run(spec, graph / "1" / "model.onnx")({"codes": codes.numpy(), "noise": noise.numpy()})
    assert np.abs(made["audio"] - whole.numpy()).max() < spec.tolerance
    told = json.loads((front / "1" / "front.json").read_text())
    assert told["tokens"]["order"] == [0, 1, 4, 2, 3, 5, 6]
    assert told["frames"] == {"first": 1, "later": 8, "before": 3, "after": 3}
