"""A checkpoint of Moonshine tiny with its published weights, as transformers saves one, from what its project ships.

    python -m tests.export.widened FOLDER OUT

FOLDER holds encoder_model.ort, decoder_model_merged.ort and tokenizer.bin, in 8 bits. ONNX Runtime writes its own
format back as ONNX; each weight there carries the name of its module, and 8 bits become 32. What they say is not
what the weights of the hub say to the last digit, but it is speech that is heard and not noise.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from tokenizers import Tokenizer, decoders, models
from transformers import MoonshineConfig, MoonshineForConditionalGeneration

from parley_export.families.moonshine_ready import BYTES_FROM, SPECIAL_PREFIX, tokenizer_bin

PARTS = {"encoder_model": "model.encoder.", "decoder_model_merged": "model.decoder."}
CONFIG = {
    "max_position_embeddings": 194, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
"""All else of Moonshine tiny is transformers' default."""
PRODUCTS = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat")
MERGED = re.compile(r"_merged_\d+")


def widen(folder: Path, out: Path) -> None:
    """Raises: KeyError, ValueError where the files hold another model than Moonshine tiny."""
    weights: dict[str, Any] = {}
    for name, prefix in PARTS.items():
        weights |= {
            key: torch.from_numpy(value.copy()) for key, value in _weights(folder / f"{name}.ort", prefix)
        }
    config = MoonshineConfig(**CONFIG)
    model = MoonshineForConditionalGeneration(config)
    weights = {key: value for key, value in weights.items() if key in model.state_dict()}
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"]
    model.load_state_dict(weights)
    model.save_pretrained(out)
    pieces = _pieces((folder / "tokenizer.bin").read_bytes())
    tokenizer = Tokenizer(
        models.BPE(vocab={piece: at for at, piece in enumerate(pieces)}, merges=[], byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [one for at, one in enumerate(pieces) if at < BYTES_FROM or one.startswith(SPECIAL_PREFIX)]
    )
    tokenizer.save(str(out / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (out / "tokenizer_config.json").write_text(json.dumps(told), "utf-8")
    heard = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "do_normalize": False,
        "sampling_rate": 16_000,
    }
    (out / "preprocessor_config.json").write_text(json.dumps(heard), "utf-8")


def _weights(path: Path, prefix: str) -> Iterator[tuple[str, Any]]:
    """By transformers' names; matrices as [out, in]."""
    graphs = list(_graphs(_onnx(path).graph))
    held = {one.name: numpy_helper.to_array(one) for graph in graphs for one in graph.initializer}
    for name, value in held.items():
        bare = MERGED.sub("", name).removesuffix("_add_tensor").removesuffix("_quantized")
        if name.endswith("_quantized"):
            if bare.startswith("onnx::"):
                continue  # a matrix: its node knows whose
            value = _wide(held, name.removesuffix("_quantized"))
        yield (bare if bare.startswith("model.") else prefix + bare), np.asarray(value)
    for graph in graphs:
        for node in graph.node:
            if node.op_type in PRODUCTS:
                module = node.name.strip("/").removesuffix("/MatMul_quant").replace("/", ".")
                base = next(
                    one for one in node.input if one.startswith("onnx::") and one.endswith("_quantized")
                )
                matrix = _wide(held, base.removesuffix("_quantized")).T
                yield f"{module if module.startswith('model.') else prefix + module}.weight", matrix
            elif node.name in ("/groupnorm/Mul", "/groupnorm/Add"):
                part = "weight" if node.op_type == "Mul" else "bias"
                yield (
                    f"{prefix}groupnorm.{part}",
                    next(held[one] for one in node.input if one in held).reshape(-1),
                )


def _wide(held: dict[str, Any], name: str) -> Any:
    values = held[f"{name}_quantized"].astype(np.float32) - held[f"{name}_zero_point"].astype(np.float32)
    return values * held[f"{name}_scale"].astype(np.float32)


def _onnx(path: Path) -> Any:
    with tempfile.TemporaryDirectory(prefix="parley-ort-") as name:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = f"{name}/model.onnx"
        options.add_session_config_entry("session.save_model_format", "ONNX")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(f"{name}/model.onnx")


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.g.node:
                yield from _graphs(attribute.g)


def _pieces(content: bytes) -> list[str]:
    """By id, no two alike: where two ids have one piece, or an id none, it is never written."""
    pieces: dict[str, int] = {}
    for at, record in enumerate(tokenizer_bin(content)):
        byte = len(record) == 1 and record[0] == at - BYTES_FROM
        piece = f"<0x{record[0]:02X}>" if byte else record.decode(errors="replace")
        pieces[piece if piece and piece not in pieces else f"<unused_{at}>"] = at
    return list(pieces)


if __name__ == "__main__":
    widen(Path(sys.argv[1]), Path(sys.argv[2]))
