"""Checkpoints in folders, as save_pretrained writes them, against the models that they were written from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from gateway.triton.models.asr.ctc import collapse
from parley_export import parakeet
from parley_export.__main__ import export
from parley_export.checkpoint import ExportError
from parley_export.families import fastspeech2, speecht5, vits_reference, whisper
from tests.export.checkpoints import LENGTHS, WRITERS, quiet

quiet()
LICENSE = "CC-BY-4.0"
REVISION = "0123456789abcdef0123456789abcdef01234567"
Told = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    kind: str
    says: Callable[[Any, Path, Told], Any]
    """What the models that were written make of the first reference's input."""
    key: str
    options: Callable[[Path], dict[str, str]] = lambda _: {}


def whisper_says(models: Any, front: Path, told: Told) -> Any:
    model, extractor = models
    return whisper.generate(
        model, extractor, told["audio_0"], str(told["language_0"]), len(told["tokens_0"]) + 1
    )[: len(told["tokens_0"])]


def parakeet_says(models: Any, front: Path, told: Told) -> Any:
    model, extractor = models
    path = model.generate(**parakeet.extracted(extractor, told["audio_0"]))[0].numpy()
    return collapse(path, model.config.pad_token_id).tokens


def vits_says(model: Any, front: Path, told: Told) -> Any:
    return vits_reference.said(model, told["ids_0"], int(told["seed_0"]))


def speecht5_says(models: Any, front: Path, told: Told) -> Any:
    lengths: dict[str, Any] = {key: float(value) for key, value in LENGTHS.items()}
    model, vocoder = models
    embedding = np.load(front / "1" / "embeddings.npy")[0]
    return speecht5.spoken(model, vocoder, told["ids_0"], embedding, seed=0, threshold=0.5, **lengths)


def fastspeech2_says(models: Any, front: Path, told: Told) -> Any:
    model, vocoder = models
    return fastspeech2.spoken(model, vocoder, told["ids_0"], {"speaker": 0})


def with_vocoder(folder: Path) -> dict[str, str]:
    return {"vocoder": str(folder / "vocoder"), "embeddings": str(folder / "embeddings.npy"), **LENGTHS}


CASES = {
    "whisper": Case("asr", whisper_says, "tokens_0"),
    "parakeet-ctc": Case("asr", parakeet_says, "tokens_0"),
    "vits": Case("tts", vits_says, "audio_0"),
    "speecht5": Case("tts", speecht5_says, "audio_0", with_vocoder),
    "fastspeech2": Case("tts", fastspeech2_says, "audio_0"),
}


@pytest.mark.parametrize("family", CASES)
def test_a_folder_becomes_the_model_that_it_was_written_from(family: str, tmp_path: Path) -> None:
    case, folder = CASES[family], tmp_path / "checkpoint"
    folder.mkdir()
    models = WRITERS[family](folder)
    made = export(
        family, str(folder), tmp_path / "models", called="some/Tiny-1.0", revision=REVISION, license=LICENSE,
        chosen=case.options(folder),
    )  # fmt: skip
    front = made[0]
    with np.load(front / "reference" / "front.npz", allow_pickle=False) as file:
        told = dict(file)
    assert told[case.key].size > 3
    np.testing.assert_allclose(case.says(models, front, told), told[case.key], atol=1e-5)
    origin(front, folder, case.kind)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    """transformers would draw them at random."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    WRITERS["vits"](folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["decoder.conv_pre.bias"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(
        ExportError, match=r"lacks 1 of the weights of a VitsModel \(decoder\.conv_pre\.bias\)"
    ):
        export("vits", str(folder), tmp_path / "models")
    assert not (tmp_path / "models").exists()


def origin(front: Path, folder: Path, kind: str) -> None:
    """Where it is from stands in the folders, and no word of it is the family's guess."""
    assert front.name.startswith(f"{kind}_")
    assert "tiny_1_0" in front.name.lower().replace("-", "_").replace(".", "_")
    told = json.loads((front / "provenance.json").read_text("utf-8"))
    assert (told["source"], told["revision"], told["license"]) == ("some/Tiny-1.0", REVISION, LICENSE)
    assert set(told["source_sha256"]) == {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    }
    assert all(one["worst_difference"] <= one["tolerance"] for one in told["parity"].values())
    assert f'"{LICENSE}"' in (front / "config.pbtxt").read_text("utf-8")
    assert (front / "LICENSE").read_text("utf-8").strip() == LICENSE
