"""Ready-made Kokoro: onnx/model.onnx with voices/*.bin (onnx-community), or kokoro-v1.0.onnx with voices-v1.0.bin
(kokoro-onnx), and the vocabulary in config.json or tokenizer.json.

random:small is a stand-in of the same interface (kokoro_random.py), not Kokoro's own architecture.
What the graph draws becomes inputs, proved bit for bit against the noise that it drew itself. Options:
graph=FILE in the folder, voices=NAME,NAME (the first is the default), license=SPDX, seed=N.
"""

from __future__ import annotations

import atexit
import io
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from gateway.triton.exported.description import Axis, Graph, Tensor
from gateway.triton.exported.reference import Case
from gateway.triton.models.tts.piper import NoiseInput
from parley_export.checkpoint import Checkpoint, ExportError
from parley_export.exported import Exported, GraphExport
from parley_export.families.noise import noise_to_inputs
from parley_export.families.noise_ranges import audio_axis, noise_axes, noise_inputs
from parley_export.families.piper_runs import Feeds, proved, run_of
from parley_export.families.vits_reference import LEVEL, MEASURED, voiced_level
from parley_export.text_data import kokoro_text
from parley_export.voices import VoiceText, parameters_of, voice_text

RATE = 24_000
STYLE = 256
MOST_TOKENS = 512
"""With the pads at both ends."""
SIZES = (5, 30, 120)
"""Tokens of the recorded cases."""
SENTENCE = "Two boats came home this morning."
"""One clause: a front says it in one piece."""
NAMES = {"input_ids": "ids", "tokens": "ids", "waveform": "audio"}
"""As ready-made graphs call their tensors; `style`, `speed` and `audio` are called the same everywhere."""
LANGUAGES = {
    "a": "en-US", "b": "en-GB", "e": "es-ES", "f": "fr-FR", "h": "hi-IN", "i": "it-IT", "j": "ja-JP", "p": "pt-BR",
    "z": "zh-CN",
}  # fmt: skip
"""The first letter of a voice's name (Kokoro's VOICES.md)."""
SPOKEN = ("en-US", "en-GB")
"""Languages with a dictionary here."""
BREAKS = (".!?…", ",;:—", " ")


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """Raises: ExportError."""
    work = Path(tempfile.mkdtemp(prefix="parley-kokoro-"))
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    folder = _folder(checkpoint, work)
    model = _graph(folder, checkpoint.source, options.get("graph", ""))
    drawn, noises = noise_to_inputs(model)
    vocabulary = _vocabulary(folder, checkpoint.source)
    styles = _styles(folder, checkpoint.source, options.get("voices", ""))
    voices = [{"name": name, "language": LANGUAGES[name[0]]} for name in styles]
    texts = _texts(vocabulary, dict.fromkeys(voice["language"] for voice in voices))
    whole_speeds = _kind(model, "speed") == TensorProto.INT32
    speed = np.ones(1, np.int32 if whole_speeds else np.float32)
    first = styles[voices[0]["name"]]
    cases = [proved(model, drawn, noises, _feeds(first, speed, vocabulary, size)) for size in SIZES]
    inputs = noise_inputs(noises, cases, ids="ids", audio="audio", rate=RATE, most_tokens=MOST_TOKENS)
    path = work / "drawn.onnx"
    onnx.save(drawn, str(path))
    files = {name: content for text in texts.values() for name, content in text.files.items()}
    return Exported(
        name=f"kokoro_{checkpoint.label}".lower().replace("-", "_").replace(".", "_"),
        kind="tts",
        engine="kokoro",
        graphs=[_graph_export(path, inputs, cases, whole_speeds)],
        front={
            "kind": "kokoro",
            **{_key(language): text.front for language, text in texts.items()},
            "texts": {language: _key(language) for language in texts},
            "sample_rate": RATE,
            "most_tokens": MOST_TOKENS,
            "breaks": [sorted(vocabulary[mark] for mark in marks if mark in vocabulary) for marks in BREAKS],
            "whole_speeds": whole_speeds,
            "noise": [one._asdict() for one in inputs],
            "voices": voices,
            **({"seed": int(options["seed"])} if "seed" in options else {}),
        },
        files={**files, "styles.npz": _packed(styles)},
        front_reference=_references(drawn, inputs, texts, styles, voices, speed),
        parameters=parameters_of(voices, RATE),
        license=options.get("license") or checkpoint.licensed("Apache-2.0", "hexgrad", "onnx-community"),
    )


def _folder(checkpoint: Checkpoint, work: Path) -> Path:
    if checkpoint.folder is not None:
        return checkpoint.folder
    if checkpoint.source != "random:small":
        raise ExportError(
            "kokoro knows no random weights but random:small; its architecture is not among transformers'"
        )
    from parley_export.families.kokoro_random import write_random

    write_random(work, checkpoint.seed)
    return work


def _graph(folder: Path, source: str, chosen: str) -> Any:
    """The graph, its tensors called ids, style, speed and audio. Raises: ExportError."""
    found = [path for path in (folder / "onnx" / "model.onnx", folder / "model.onnx") if path.exists()]
    found = [folder / chosen] if chosen else found[:1] or sorted(folder.glob("*.onnx"))
    if len(found) != 1:
        raise ExportError(f"{source} holds {len(found)} .onnx files; name one of them: --option graph=FILE")
    try:
        model = onnx.load(str(found[0]))
    except Exception as error:
        raise ExportError(f"{found[0]} is no ONNX file that can be read: {error}") from None
    for value in (*model.graph.input, *model.graph.output):
        _rename(model.graph, value.name, NAMES.get(value.name, value.name))
    there = {value.name for value in (*model.graph.input, *model.graph.output)}
    missing = [name for name in ("ids", "style", "speed", "audio") if name not in there]
    if missing:
        raise ExportError(
            f"{found[0].name} is no Kokoro: it has no {', '.join(missing)}, only {', '.join(sorted(there))}"
        )
    kept = [value for value in model.graph.output if value.name == "audio"]  # some tell durations, too
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return model


def _rename(graph: Any, old: str, new: str) -> None:
    if old == new:
        return
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = new if value.name == old else value.name
    for node in _all_nodes(graph):
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                if name == old:
                    names[at] = new


def _all_nodes(graph: Any) -> list[Any]:
    inner = [
        n for node in graph.node for a in node.attribute for g in (a.g, *a.graphs) for n in _all_nodes(g)
    ]
    return [*graph.node, *inner]


def _kind(model: Any, name: str) -> int:
    return next(int(v.type.tensor_type.elem_type) for v in model.graph.input if v.name == name)


def _vocabulary(folder: Path, source: str) -> dict[str, int]:
    """Raises: ExportError."""
    for name, at in (("config.json", ("vocab",)), ("tokenizer.json", ("model", "vocab"))):
        try:
            told: Any = json.loads((folder / name).read_text("utf-8"))
            for key in at:
                told = told[key]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        # 0 is the pad, whatever it is called.
        return {str(symbol): int(number) for symbol, number in told.items() if int(number)}
    raise ExportError(
        f"{source} has no vocabulary: put Kokoro's config.json (with vocab) or tokenizer.json beside the graph"
    )


def _styles(folder: Path, source: str, chosen: str) -> dict[str, NDArray[np.float32]]:
    """Styles [n, 256] of each voice whose language can be said. Raises: ExportError."""
    found: dict[str, NDArray[np.float32]] = {}
    for path in sorted((folder / "voices").glob("*.bin")):
        found[path.stem] = np.frombuffer(path.read_bytes(), "<f4").reshape(-1, STYLE)
    for path in sorted([*folder.glob("voices*.bin"), *folder.glob("voices*.npz")]):
        try:
            with np.load(path, allow_pickle=False) as packed:
                found |= {name: packed[name].astype(np.float32).reshape(-1, STYLE) for name in packed.files}
        except (OSError, ValueError, AttributeError) as error:
            raise ExportError(f"{path.name} holds no voices: {error}") from None
    wanted = [name.strip() for name in chosen.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise ExportError(f"{source} has no voice {', '.join(unknown)}; it has {', '.join(found) or 'none'}")
    spoken = {
        name: found[name]
        for name in wanted or found
        if len(found[name]) and LANGUAGES.get(name[0], "") in SPOKEN
    }
    if not spoken:
        raise ExportError(
            f"{source} has no voice of a language with a dictionary here ({', '.join(SPOKEN)}); it has "
            f"{', '.join(found) or 'none'}: put voices/*.bin or voices-v1.0.bin beside the graph"
        )
    return spoken


def _key(language: str) -> str:
    return "text_" + language.lower().replace("-", "_")


def _texts(
    vocabulary: Mapping[str, int], languages: Sequence[str] | Mapping[str, None]
) -> dict[str, VoiceText]:
    made = {}
    for language in languages:
        prefix = language.lower().replace("-", "_") + "_"
        made[language] = voice_text(*kokoro_text(vocabulary, language=language, prefix=prefix))
    return made


def _feeds(
    styles: NDArray[np.float32], speed: NDArray[Any], vocabulary: Mapping[str, int], size: int
) -> Feeds:
    rng = np.random.default_rng(size)
    ids = rng.choice(sorted(vocabulary.values()), size - 2)
    return {
        "ids": np.array([[0, *ids, 0]], np.int64),
        "style": styles[min(size - 3, len(styles) - 1)].reshape(1, STYLE).copy(),
        "speed": speed,
    }


def _graph_export(
    path: Path,
    noises: list[NoiseInput],
    cases: list[tuple[Feeds, Feeds]],
    whole_speeds: bool,
) -> GraphExport:
    usual = SIZES[-1]
    rank = cases[0][1]["audio"].ndim
    names = ["audio", *(one.size for one in noises)]
    graph = Graph(
        "voice",
        inputs=(
            Tensor("ids", "INT64", (1, "tokens"), "integers", 0, 1),
            Tensor("style", "FP32", (1, STYLE)),
            Tensor("speed", "INT32" if whole_speeds else "FP32", (1,), "ones"),
            *(Tensor(n.name, "FP32", (f"{n.name}_values",), "uniform" if n.uniform else "normal") for n in noises),
        ),
        outputs=(
            Tensor("audio", "FP32", ("samples",) if rank == 1 else (1,) * (rank - 1) + ("samples",)),
            *(Tensor(one.size, "INT64", (1,)) for one in noises),
        ),
        axes=(
            Axis("tokens", 3, usual, MOST_TOKENS),
            *noise_axes(noises, usual),
        ),
        derived=(audio_axis("samples", cases[-1][1]["audio"].size, RATE),),
        exact=tuple(one.size for one in noises),
    )  # fmt: skip
    recorded = [
        Case(f"{feeds['ids'].shape[1]} tokens", [feeds], [{name: expected[name] for name in names}])
        for feeds, expected in cases
    ]
    return GraphExport(graph, path=path, cases=recorded)


def _references(
    drawn: Any,
    noise: list[NoiseInput],
    texts: Mapping[str, VoiceText],
    styles: Mapping[str, NDArray[np.float32]],
    voices: list[dict[str, Any]],
    speed: NDArray[Any],
) -> dict[str, NDArray[np.generic]]:
    """Each voice's gain, and what the graph says to a sentence with a front's noise of the seed 0."""
    run = run_of(drawn)
    references: dict[str, NDArray[np.generic]] = {}
    gains: list[float] = []
    for voice in voices[:MEASURED]:
        ids = texts[voice["language"]].ids(SENTENCE)
        style = styles[voice["name"]][len(ids) - 3].reshape(1, STYLE)
        counts = [1] * len(noise)
        while True:
            values = {
                one.name: one.draw(0, index, count)
                for index, (one, count) in enumerate(zip(noise, counts, strict=True))
            }
            made = run({"ids": ids[None], "style": style, "speed": speed, **values})
            taken = [int(made[one.size][0]) for one in noise]
            if taken == counts:
                break
            counts = taken
        audio = made["audio"].reshape(-1)
        gains.append(LEVEL / max(voiced_level(audio, RATE), 1e-4))
        if voice in (voices[0], voices[min(len(voices), MEASURED) - 1]):
            number = sum(name.startswith("audio_") for name in references)
            references |= {
                f"text_{number}": np.array(SENTENCE),
                f"ids_{number}": ids, f"seed_{number}": np.array(0), f"audio_{number}": audio,
                f"voice_{number}": np.array(voice["name"]),
            }  # fmt: skip
    gains += [float(np.mean(gains))] * (len(voices) - len(gains))
    for voice, gain in zip(voices, gains, strict=True):
        voice["gain"] = round(gain, 4)
    return references


def _packed(styles: Mapping[str, NDArray[np.float32]]) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, **styles)
    return packed.getvalue()
