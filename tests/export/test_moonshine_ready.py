"""Ready-made Moonshine: stand-ins with its files' interface are imported as they are and say what torch says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import MoonshineConfig, MoonshineForConditionalGeneration

from gateway.triton.models.asr.seq2seq import transcriber
from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import GraphError
from gateway.triton.models.pieces import Pieces
from parley_export.__main__ import export
from parley_export.checkpoint import ExportError, open_checkpoint
from parley_export.families import moonshine, moonshine_ready
from parley_export.sounds import bursts
from parley_export.tokens import made_vocabulary
from tests.export import ready_moonshine

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()


@pytest.fixture(scope="module")
def model() -> Any:
    checkpoint = open_checkpoint("moonshine", "random:small")
    config = checkpoint.config(MoonshineConfig, moonshine.SMALL)
    return checkpoint.model(MoonshineForConditionalGeneration, config, enliven=moonshine._enliven)


@pytest.fixture(scope="module", params=["onnx", "ort"])
def folder(request: pytest.FixtureRequest, model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported model's."""
    out = tmp_path_factory.mktemp(request.param)
    ready = out / "moonshine-tiny"
    ready_moonshine.write(model, ready, ort=request.param == "ort")
    (ready / "tokenizer.bin").write_bytes(tokenizer_bin(200))
    return export("moonshine", str(ready), out / "models", chosen={"agreement": "0"})[0]


def tokenizer_bin(size: int) -> bytes:
    pieces = [b"<unk>", b"<s>", b"</s>", *(bytes([at]) for at in range(100))]
    pieces += [piece.encode() for piece in made_vocabulary(size - len(pieces) - 2)]
    pieces += [b"", b"<<ST_0>>"]
    return b"".join(bytes([len(piece)]) + piece for piece in pieces)


def test_tokens_are_those_of_generate(model: Any, folder: Path) -> None:
    front = transcriber(Folder(folder / "1"))
    assert front.max_batch == 1
    for seconds in (0.5, 1.9, 4.2):
        audio = bursts(seconds, 60)
        text = front.texts([audio], [""])[0]
        assert text.tokens == moonshine.generate(model, audio, front._decoding.limit(len(audio)))
        assert len(set(text.tokens)) > 3
        starts = [start for start, _ in text.times]
        assert starts == sorted(starts)
        assert text.times[-1][1] <= seconds * 1000


def test_the_file_is_kept_as_it_is_and_named_in_the_config(folder: Path) -> None:
    decoder = folder.parent / f"graph_{folder.name}_decoder"
    kept = next((decoder / "1").iterdir())
    config = (decoder / "config.pbtxt").read_text("utf-8")
    assert ("default_model_filename" in config) == (kept.name == "model.ort")
    provenance = json.loads((folder / "provenance.json").read_text("utf-8"))
    copied = provenance["sha256"][f"{decoder.name}/1/{kept.name}"]
    assert copied == provenance["source_sha256"][f"decoder_model_merged{kept.suffix}"]


def test_a_beam_of_ready_made_graphs_is_refused(folder: Path) -> None:
    opened = Folder(folder / "1")
    opened.front["beam"] = 2
    with pytest.raises(GraphError, match="beam is 2; it may be 1 to 1"):
        transcriber(opened)


def test_tokenizer_bin_is_read_record_by_record(tmp_path: Path) -> None:
    long = "\u2581" + "x" * 200
    records = [
        b"<unk>",
        b"<s>",
        b"</s>",
        b"\x00",
        b"\x01",
        "\u2581hi".encode(),
        b"",
        long.encode(),
        b"<<ST_7>>",
    ]
    content = b""
    for record in records:
        size = len(record)
        content += (bytes([size]) if size < 128 else bytes([128 + size % 128, size // 128])) + record
    assert list(moonshine_ready.tokenizer_bin(content)) == records
    (tmp_path / "tokenizer.bin").write_bytes(content)
    told = json.loads(moonshine_ready._tokens(tmp_path))
    assert told["pieces"][3:5] == ["<0x00>", "<0x01>"]
    assert {0, 1, 2, 6, 8} <= set(told["special"])
    assert Pieces(told).text([1, 5, 7, 8, 2]) == "hi " + "x" * 200
    with pytest.raises(ExportError, match="not copied whole"):
        list(moonshine_ready.tokenizer_bin(content[:-3]))
