"""Moonshine as its project ships it: encoder_model and decoder_model_merged (.onnx or .ort), tokenizer.json or
tokenizer.bin.

The merged decoder holds the first and the later step as two branches of one graph, chosen by use_cache_branch: the
first computes the cross attention's keys and values (present.N.encoder.*), the later ones are given them. The .ort
files are ONNX Runtime's own format; it loads them as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from gateway.triton.exported.description import Axis, Graph, Tensor
from gateway.triton.exported.reference import Case, Feeds
from parley_export.checkpoint import Checkpoint, ExportError
from parley_export.exported import Exported, GraphExport
from parley_export.seq2seq_front import Decoding, license_of, model_name, number, reference, settling
from parley_export.tokens import tokens_file

RATE = 16_000
CONVOLUTIONS = ((127, 64), (7, 3), (3, 2))
"""Kernel and stride of the encoder's three."""
LEAST = 127 + 64 * 12
STRIDE = 64 * 3 * 2
FRAME_S = STRIDE / RATE
LONG = 400
"""Frames: more than the stride, so that a mask that is thinned out wrongly shows."""
MASK = "encoder_attention_mask"
START, END, MOST_TOKENS = 1, 2, 194
"""As every Moonshine's; most tokens as its generation_config.json has them."""
SPECIAL_PREFIX = "<<ST_"
BYTES_FROM = 3
_TYPES = {"tensor(float)": "FP32", "tensor(int64)": "INT64", "tensor(int32)": "INT32", "tensor(bool)": "BOOL"}


def frames_of(samples: int) -> int:
    """The encoder's, of so much audio."""
    for kernel, stride in CONVOLUTIONS:
        samples = (samples - kernel) // stride + 1
    return samples


def is_ready(folder: Path) -> bool:
    return _file(folder, "encoder_model") is not None and _file(folder, "decoder_model_merged") is not None


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """Raises: ExportError."""
    folder = checkpoint.folder
    assert folder is not None
    encoder, decoder = _file(folder, "encoder_model"), _file(folder, "decoder_model_merged")
    assert encoder is not None
    assert decoder is not None
    sessions = _session(encoder), _session(decoder)
    max_s = number(options, "max_s", 30.0)
    described = _encoder(sessions[0], max_s), _decoder(sessions[1], max_s)
    decoding = Decoding(
        prompts={"": [START]}, eos=[END], most_positions=MOST_TOKENS,
        tokens_per_s=number(options, "tokens_per_s", 6.5), max_s=max_s, frame_s=FRAME_S, median=7,
        least_samples=LEAST, interface="merged",
    )  # fmt: skip
    tokens = _tokens(folder)
    license_name, license_text = license_of(checkpoint)
    said = reference(
        decoding,
        lambda audio, _, limit: greedy(*sessions, *described, audio, limit),
        json.loads(tokens),
        checkpoint.seed,
    )
    return Exported(
        name=model_name("moonshine", checkpoint),
        kind="asr",
        engine="moonshine",
        graphs=[
            GraphExport(described[0], path=encoder, cases=_encoder_cases(described[0]), filename=_name(encoder)),
            GraphExport(described[1], path=decoder, cases=_decoder_cases(described[1]), filename=_name(decoder)),
        ],
        front={
            "kind": "buffered", "decoder": "seq2seq", "decoding": decoding.told(),
            "beam": 1, **settling(checkpoint, options),
        },
        files={"tokens.json": tokens},
        parameters={"languages": options.get("language", "en"), "sample_rate": str(RATE)},
        license=options.get("license", license_name),
        license_text=license_text,
        front_reference=said,
    )  # fmt: skip


def greedy(
    encoder: onnxruntime.InferenceSession,
    decoder: onnxruntime.InferenceSession,
    heard: Graph,
    written: Graph,
    audio: NDArray[np.float32],
    limit: int,
) -> list[int]:
    """The graphs' own interface, spelled out once more, for what the front is held against."""  # fmt: skip
    feeds: Feeds = {heard.inputs[0].name: audio[None]}
    if len(heard.inputs) > 1:
        feeds[heard.inputs[1].name] = np.ones((1, len(audio)), np.int64)
    hidden = encoder.run([heard.outputs[0].name], feeds)[0]
    feeds = {"encoder_hidden_states": hidden}
    for tensor in written.inputs:
        if tensor.name == MASK:
            masked = len(audio) if tensor.dims[1] == "samples" else hidden.shape[1]
            feeds[MASK] = np.ones((1, masked), np.int64)
        if tensor.name.startswith("past_key_values."):
            feeds[tensor.name] = np.zeros((1, int(tensor.dims[1]), 1, int(tensor.dims[3])), np.float32)
    tokens: list[int] = []
    last = START
    while len(tokens) < limit:
        feeds["input_ids"] = np.array([[last]], np.int64)
        feeds["use_cache_branch"] = np.array([bool(tokens)])
        made = dict(zip(written.output_names, decoder.run(written.output_names, feeds), strict=True))
        last = int(made["logits"][0, -1].argmax())
        if last == END:
            break
        for name, value in made.items():
            if name.startswith("present.") and (not tokens or ".decoder." in name):
                feeds[name.replace("present.", "past_key_values.")] = value
        tokens.append(last)
    return tokens


def tokenizer_bin(content: bytes) -> Iterator[bytes]:
    """The records of a tokenizer.bin in order of their ids: a length (0: nothing; from 128 on the byte after it
    counts 128s too), then so many bytes. Raises: ExportError."""
    at = 0
    while at < len(content):
        length = content[at]
        at += 1
        if length >= 128 and at < len(content):
            length = length - 128 + 128 * content[at]
            at += 1
        if at + length > len(content):
            raise ExportError("tokenizer.bin ends within a token: it was not copied whole")
        yield content[at : at + length]
        at += length


def _tokens(folder: Path) -> bytes:
    if (folder / "tokenizer.json").is_file():
        return tokens_file(
            PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(folder / "tokenizer.json")))
        )
    path = folder / "tokenizer.bin"
    if not path.is_file():
        raise ExportError(f"{folder} has neither tokenizer.json nor tokenizer.bin")
    pieces = []
    for at, record in enumerate(tokenizer_bin(path.read_bytes())):
        byte = len(record) == 1 and BYTES_FROM <= at < BYTES_FROM + 256 and record[0] == at - BYTES_FROM
        pieces.append(f"<0x{record[0]:02X}>" if byte else record.decode(errors="replace"))
    special = [at for at, piece in enumerate(pieces) if at < BYTES_FROM or piece.startswith(SPECIAL_PREFIX)]
    return tokens_file(pieces, kind="sentencepiece", special=special)


def _encoder(session: onnxruntime.InferenceSession, max_s: float) -> Graph:
    heard = _samples(max_s)
    inputs = session.get_inputs()
    if len(inputs) not in (1, 2):
        raise ExportError(f"encoder_model has {len(inputs)} inputs; Moonshine's has audio and perhaps a mask")
    tensors = [Tensor(inputs[0].name, _type(inputs[0]), (1, "samples"), "uniform", -0.5, 0.5)]
    if len(inputs) == 2:
        tensors.append(Tensor(inputs[1].name, _type(inputs[1]), (1, "samples"), "ones"))
    hidden = session.get_outputs()[0]
    return Graph(
        name="encoder",
        inputs=tuple(tensors),
        outputs=(Tensor(hidden.name, _type(hidden), (1, "frames", _fixed(hidden, 2))),),
        axes=(heard,),
        derived=(Axis("frames", *map(frames_of, (heard.least, heard.usual, heard.most))),),
    )


def _samples(max_s: float) -> Axis:
    """The audio's."""
    most = round(max_s * RATE)
    return Axis("samples", LEAST, min(5 * RATE, most), most)


def _decoder(session: onnxruntime.InferenceSession, max_s: float) -> Graph:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    names = {tensor.name for tensor in inputs}
    needed = {"input_ids", "encoder_hidden_states", "use_cache_branch"}
    if not needed <= names:
        raise ExportError(f"decoder_model_merged has no {', '.join(sorted(needed - names))}")
    masked = _masked(session) if MASK in names else "frames"
    dims: dict[str, tuple[int | str, ...]] = {
        "input_ids": (1, "steps"), "use_cache_branch": (1,), MASK: (1, masked),
    }  # fmt: skip
    tensors = []
    for tensor in inputs:
        if tensor.name == "encoder_hidden_states":
            shape: tuple[int | str, ...] = (1, "frames", _fixed(tensor, 2))
        elif tensor.name in dims:
            shape = dims[tensor.name]
        else:
            axis = "heard" if ".encoder." in tensor.name else "past"
            shape = (1, _fixed(tensor, 1), axis, _fixed(tensor, 3))
        fill = "ones" if tensor.name == MASK else "normal"
        high = 100.0 if tensor.name == "input_ids" else 1.0
        tensors.append(Tensor(tensor.name, _type(tensor), shape, fill, 0.0, high))
    made = [
        Tensor(
            tensor.name,
            _type(tensor),
            (1, "steps", _fixed(tensor, 2))
            if tensor.name == "logits"
            else (1, _fixed(tensor, 1), "kept" if ".encoder." in tensor.name else "later", _fixed(tensor, 3)),
        )
        for tensor in outputs
    ]
    most = int(max_s / FRAME_S)
    return Graph(
        name="decoder",
        inputs=tuple(tensors),
        outputs=tuple(made),
        axes=(
            Axis("steps", 1, 1, 1),
            Axis("past", 1, 32, MOST_TOKENS),
            Axis("heard", 1, min(120, most), most),
            Axis("frames", 1, min(120, most), most),
            *([_samples(max_s)] if masked == "samples" else []),
        ),
        # What was given and one more; of the encoder's, made on the first step and left alone, or empty, on later ones.
        derived=(Axis("later", 1, 33, MOST_TOKENS + 1), Axis("kept", 0, min(120, most), most)),
    )


def _masked(session: onnxruntime.InferenceSession) -> str:
    """The axis of the decoder's mask: transformers' Moonshine takes every 384th of the audio's; a graph that was
    exported otherwise may take the frames' as it is. Up to 384 frames nobody can tell. Raises: ExportError."""
    for axis in ("samples", "frames"):
        feeds = _first_step(session.get_inputs(), LONG, LONG * STRIDE if axis == "samples" else LONG)
        try:
            session.run(["logits"], feeds)
        except Exception:
            continue
        return axis
    raise ExportError(
        f"decoder_model_merged does not run with {MASK} of the audio nor of the encoder's frames"
    )


def _first_step(inputs: Sequence[Any], frames: int, masked: int) -> Feeds:
    feeds: Feeds = {}
    for tensor in inputs:
        if tensor.name == "encoder_hidden_states":
            feeds[tensor.name] = np.zeros((1, frames, _fixed(tensor, 2)), np.float32)
        elif tensor.name == MASK:
            feeds[tensor.name] = np.ones((1, masked), np.int64)
        elif tensor.name == "input_ids":
            feeds[tensor.name] = np.array([[START]], np.int64)
        elif tensor.name == "use_cache_branch":
            feeds[tensor.name] = np.array([False])
        else:
            feeds[tensor.name] = np.zeros((1, _fixed(tensor, 1), 1, _fixed(tensor, 3)), np.float32)
    return feeds


def _encoder_cases(graph: Graph) -> list[Case]:
    rng = np.random.default_rng(0)
    cases = []
    for name, samples in {"least": LEAST, "usual": 24_000}.items():
        feeds: Feeds = {graph.inputs[0].name: rng.uniform(-0.5, 0.5, (1, samples)).astype(np.float32)}
        if len(graph.inputs) > 1:
            feeds[graph.inputs[1].name] = np.ones((1, samples), np.int64)
        cases.append(Case(name, [feeds]))
    return cases


def _decoder_cases(graph: Graph) -> list[Case]:
    """The first branch and the later one, each on its own."""
    rng = np.random.default_rng(0)
    cases = []
    for name, later, past, frames in (
        ("first step", False, 1, 20), ("later step", True, 5, 20), ("long", False, 1, LONG), ("long, later", True, 2, LONG),
    ):  # fmt: skip
        feeds: Feeds = {}
        for tensor in graph.inputs:
            axes = {
                "steps": 1, "past": past, "heard": frames if later else 1, "frames": frames, "samples": frames * STRIDE,
            }  # fmt: skip
            shape = [axes[dim] if isinstance(dim, str) else dim for dim in tensor.dims]
            if tensor.name == "use_cache_branch":
                feeds[tensor.name] = np.array([later])
            elif tensor.dtype in ("INT64", "INT32"):
                feeds[tensor.name] = np.ones(shape, np.int64 if tensor.dtype == "INT64" else np.int32)
            elif tensor.name.startswith("past_key_values.") and not later:
                feeds[tensor.name] = np.zeros(shape, np.float32)
            else:
                feeds[tensor.name] = rng.standard_normal(shape).astype(np.float32)
        cases.append(Case(name, [feeds]))
    return cases


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"{path} does not load in ONNX Runtime: {str(error).splitlines()[0]}") from None


def _file(folder: Path, name: str) -> Path | None:
    return next((p for end in ("onnx", "ort") if (p := folder / f"{name}.{end}").is_file()), None)


def _name(path: Path) -> str:
    return f"model{path.suffix}"


def _type(tensor: Any) -> str:
    if tensor.type not in _TYPES:
        raise ExportError(f"{tensor.name} is {tensor.type}, which Moonshine's graphs do not have")
    return _TYPES[tensor.type]


def _fixed(tensor: Any, at: int) -> int:
    size = tensor.shape[at] if at < len(tensor.shape) else None
    if not isinstance(size, int):
        raise ExportError(f"{tensor.name} does not say how large its dimension {at} is")
    return size
