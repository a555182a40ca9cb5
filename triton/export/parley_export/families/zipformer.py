"""sherpa-onnx's streaming zipformers (encoder, decoder, joiner as ready ONNX files) as graphs of Parley.

Options: precision=int8 (the quantised files, where there are some), languages=en, license=SPDX, max_batch=N.
random:small is a stand-in with the same interface and other insides (zipformer_small.py): icefall, which has the
real class, cannot be installed as a package.
"""

from __future__ import annotations

import atexit
import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from gateway.triton.exported.description import Graph, Tensor
from gateway.triton.exported.reference import Case, Feeds, Run, make_cases, record
from gateway.triton.models.features_fbank import Fbank
from gateway.triton.models.pieces import Pieces
from parley_export import zipformer_small
from parley_export.checkpoint import Checkpoint, ExportError
from parley_export.exported import Exported, GraphExport
from parley_export.sounds import bursts
from parley_export.tokens import tokens_file
from parley_export.zipformer_graphs import encoder_graph, metadata, native_run, read, renamed, rewritten

MAX_BATCH = 32
JOINER_BATCH = 512
"""Frames of a batch's chunks at once."""
TAIL_S = 0.66
"""Silence after the end that sherpa-onnx's examples add, so that the last words come out."""
PARTS = ("encoder", "decoder", "joiner")
SILENT = ("<blk>", "<sos/eos>", "<unk>")


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """Raises: ExportError."""
    work = tempfile.TemporaryDirectory(prefix="parley-zipformer-")
    atexit.register(work.cleanup)  # the graphs are read when they are written into their folders
    made = Path(work.name)
    small = None
    folder = checkpoint.folder
    if folder is None:
        if not checkpoint.source.endswith(":small"):
            raise ExportError("random weights of a zipformer have one size: random:small")
        small = zipformer_small.build(checkpoint.seed)
        folder = made / "source"
        folder.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zipformer_small.write(small, folder)
    paths = {part: _find(folder, part, options.get("precision", "")) for part in PARTS}
    models = {part: read(path) for part, path in paths.items()}
    told = metadata(models["encoder"])
    window, shift = _number(told, "T"), _number(told, "decode_chunk_len")
    if told.get("feature"):
        raise ExportError(
            f"the encoder hears {told['feature']} features; Kaldi's are what Parley makes for it"
        )
    runs = {part: _ort(path) for part, path in paths.items()}
    frames, width = _size_of_a_chunk(models["encoder"], runs["encoder"])
    max_batch = int(options.get("max_batch", MAX_BATCH))
    mels = models["encoder"].graph.input[0].type.tensor_type.shape.dim[2].dim_value
    context = _number(metadata(models["decoder"]), "context_size")
    pieces = _pieces(folder / "tokens.txt")
    graph = encoder_graph(models["encoder"], frames, width, max_batch)
    cases = make_cases(graph)
    # Torch's word where there is torch; a ready file's own before it was rewritten.
    origin = runs["encoder"] if small is None else _torch(small.encoder, models["encoder"])
    for case in cases:
        record(graph, case, native_run(models["encoder"], graph, origin))
    graphs = [_ready(rewritten(models["encoder"], graph), graph, made, cases)]
    stateless = _stateless(models, context, width, len(pieces))
    known = {"decoder": _contexts(context, len(pieces))}
    graphs += [_ready(renamed(models[one.name], one), one, made, known.get(one.name)) for one in stateless]
    fbank = {"kind": "kaldi", "mels": mels}
    front: dict[str, Any] = {
        "kind": "streaming",
        "decoder": "transducer",
        "features": fbank,
        "window": window,
        "shift": shift,
        "encoder_frame_ms": 10.0 * shift / frames,
        "context_size": context,
        "blank": 0,
        "silent": [at for at, piece in enumerate(pieces) if piece in SILENT],
        # A window's length more than a frame's: the audio's last frame is in a chunk that is full.
        "tail_s": max(TAIL_S, 0.01 * window),
    }
    tokens = tokens_file(pieces, special=front["silent"])
    return Exported(
        name=f"zipformer_{checkpoint.label}".replace("-", "_").replace(".", "_").lower(),
        kind="asr",
        engine="zipformer",
        graphs=graphs,
        front=front,
        files={"tokens.json": tokens},
        parameters={"languages": options.get("languages", "en"), "sample_rate": "16000"},
        license=options.get("license", "CC0-1.0" if checkpoint.is_random else "LicenseRef-unknown"),
        license_text=_license(checkpoint),
        front_reference=_reference(models["encoder"], runs, front, Pieces(json.loads(tokens))),
    )


def _stateless(
    models: Mapping[str, onnx.ModelProto], context: int, width: int, vocabulary: int
) -> tuple[Graph, Graph]:
    said = _number(metadata(models["decoder"]), "vocab_size")
    if said != vocabulary:
        raise ExportError(
            f"tokens.txt has {vocabulary} tokens and the decoder {said}: they are of two models"
        )
    return (
        Graph(
            "decoder",
            inputs=(Tensor("CONTEXT", "INT64", (context,), "integers", 0, vocabulary),),
            outputs=(Tensor("PREDICTED", "FP32", (width,)),),
            max_batch=MAX_BATCH,
        ),
        Graph(
            "joiner",
            inputs=(Tensor("ENCODED", "FP32", (width,)), Tensor("PREDICTED", "FP32", (width,))),
            outputs=(Tensor("LOGITS", "FP32", (vocabulary,)),),
            max_batch=JOINER_BATCH,
        ),
    )


def _contexts(context: int, vocabulary: int) -> list[Case]:
    """Every token in every place, so that no row of the embedding goes unproved."""
    tokens = np.arange(vocabulary)
    contexts = np.stack([np.roll(tokens, place) for place in range(context)], 1)
    return [
        Case(f"tokens from {first}", [{"CONTEXT": contexts[first : first + MAX_BATCH]}])
        for first in range(0, vocabulary, MAX_BATCH)
    ]


def _ready(model: onnx.ModelProto, graph: Graph, folder: Path, cases: list[Case] | None) -> GraphExport:
    path = folder / f"{graph.name}.onnx"
    onnx.save(model, str(path))
    return GraphExport(graph, path=path, cases=cases)


def _reference(
    encoder: onnx.ModelProto, runs: Mapping[str, Run], front: Mapping[str, Any], pieces: Pieces
) -> dict[str, np.ndarray[Any, Any]]:
    """The files as they came, one utterance and one frame at a time."""
    told: dict[str, np.ndarray[Any, Any]] = {}
    fbank = Fbank(front["features"])
    tail = np.zeros(int(np.ceil(front["tail_s"] * 16_000)), np.float32)
    for number, seconds in enumerate((3.0, 1.4, 0.2)):
        audio = bursts(seconds, 7 + number)
        heard = fbank.whole(np.concatenate([audio, tail]))
        told[f"audio_{number}"] = audio
        tokens = _greedy(encoder, runs, heard, front)
        told[f"tokens_{number}"] = np.array(tokens, np.int64)
        told[f"text_{number}"] = np.array(" ".join(span.text for span in pieces.spans(tokens)))
    return told


def _greedy(
    encoder: onnx.ModelProto, runs: Mapping[str, Run], heard: Any, front: Mapping[str, Any]
) -> list[int]:
    states: Feeds = {one.name: _zeros(one, 1) for one in list(encoder.graph.input)[1:]}
    leaving = [one.name for one in encoder.graph.output]
    tokens = [front["blank"]] * front["context_size"]
    for first in range(0, len(heard) - front["window"] + 1, front["shift"]):
        chunk = heard[None, first : first + front["window"]]
        made = runs["encoder"]({encoder.graph.input[0].name: chunk, **states})
        states = {name: made[new] for name, new in zip(states, leaving[1:], strict=True)}
        for frame in made[leaving[0]][0]:
            context = np.array([tokens[-front["context_size"] :]], np.int64)
            predicted = runs["decoder"](_positional(context))["0"]
            token = int(runs["joiner"](_positional(frame[None], predicted))["0"][0].argmax())
            if token not in front["silent"]:
                tokens.append(token)
    return tokens[front["context_size"] :]


def _positional(*values: Any) -> Feeds:
    return {str(number): value for number, value in enumerate(values)}


def _ort(path: Path) -> Run:
    """By the file's own names, or by the numbers of its tensors."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    outputs = [one.name for one in session.get_outputs()]

    def run(feeds: Feeds) -> Mapping[str, Any]:
        by_number = set(feeds) == {str(number) for number in range(len(names))}
        given = {names[int(at)]: value for at, value in feeds.items()} if by_number else feeds
        made = session.run(outputs, given)
        return _positional(*made) if by_number else dict(zip(outputs, made, strict=True))

    return run


def _torch(module: Any, model: onnx.ModelProto) -> Run:
    inputs = [one.name for one in model.graph.input]
    outputs = [one.name for one in model.graph.output]

    def run(feeds: Feeds) -> Mapping[str, Any]:
        with torch.no_grad():
            made = module(*(torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in inputs))
        return {name: value.numpy() for name, value in zip(outputs, made, strict=True)}

    return run


def _size_of_a_chunk(encoder: onnx.ModelProto, run: Run) -> tuple[int, int]:
    made = run({one.name: _zeros(one, 1) for one in encoder.graph.input})
    _, frames, width = made[encoder.graph.output[0].name].shape
    return frames, width


def _zeros(value: Any, count: int) -> Any:
    tensor = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else count for dim in tensor.shape.dim]
    return np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))


def _find(folder: Path, part: str, precision: str) -> Path:
    found = sorted(folder.glob(f"{part}*.onnx"))
    quantised = [path for path in found if "int8" in path.name]
    whole = [path for path in found if "int8" not in path.name]
    chosen = (quantised or whole) if precision == "int8" else (whole or quantised)
    if not chosen:
        raise ExportError(f"{folder} has no {part}*.onnx: it is no folder of a sherpa-onnx transducer")
    if len(chosen) > 1:
        names = ", ".join(path.name for path in chosen)
        raise ExportError(f"{folder} has several {part}s ({names}): leave one in a copy of the folder")
    return chosen[0]


def _number(told: Mapping[str, str], key: str) -> int:
    try:
        return int(told[key])
    except (KeyError, ValueError):
        raise ExportError(
            f"the ONNX file says no {key} in its metadata: it is no streaming transducer"
        ) from None


def _pieces(path: Path) -> list[str]:
    """tokens.txt: a piece, a space and its number in each line. Raises: ExportError."""
    try:
        lines = [line.rsplit(maxsplit=1) for line in path.read_text("utf-8").splitlines() if line.strip()]
        found = {int(parts[-1]): parts[0] if len(parts) > 1 else " " for parts in lines}
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from None
    return [found.get(number, "") for number in range(max(found, default=-1) + 1)]


def _license(checkpoint: Checkpoint) -> str:
    path = checkpoint.folder / "LICENSE" if checkpoint.folder is not None else None
    return path.read_text("utf-8") if path is not None and path.exists() else ""
