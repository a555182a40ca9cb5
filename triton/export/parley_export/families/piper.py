"""Ready-made Piper voices: a folder with one voice.onnx and its voice.onnx.json.

What the graph draws becomes inputs (proved bit for bit against the noise that it drew itself); where its generator
can be found, it is cut off and streams in windows. Options: phonemiser=espeak (GPL, in its own process; the default
where no dictionary of the language is there), language=BCP-47, voices=NAME,NAME, license=SPDX, seed=N, first_ms,
later_ms, speakers=N (of random weights).
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from gateway.triton.models.tts.piper import NoiseInput
from parley_export.checkpoint import Checkpoint, ExportError
from parley_export.exported import Exported
from parley_export.families import vits_reference
from parley_export.families.noise import noise_to_inputs
from parley_export.families.noise_ranges import noise_inputs
from parley_export.families.piper_parts import MOST_TOKENS, Parts
from parley_export.families.piper_random import write_random
from parley_export.families.piper_runs import Feeds, proved, run_of
from parley_export.text_data import espeak_text, piper_text, text_files
from parley_export.voices import VoiceText, add_texts, parameters_of, voice_table, voice_text

INPUTS = ("input", "input_lengths", "scales")
SENTENCE = "Two boats came home this morning, and the harbour was quiet again."
SIZES = (3, 25, 120)
"""Tokens of the recorded cases."""


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """Raises: ExportError."""
    work = Path(tempfile.mkdtemp(prefix="parley-piper-"))
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    model, told = _read(checkpoint, work, options)
    drawn, noises = noise_to_inputs(model)
    scales = [
        float(told["inference"].get(key, usual))
        for key, usual in (("noise_scale", 0.667), ("length_scale", 1.0), ("noise_w", 0.8))
    ]
    speakers = int(told.get("num_speakers", 1))
    language = options.get("language") or str(told.get("language", {}).get("code", "en_US")).replace("_", "-")
    text = _text(told, language, options)
    symbols = sorted({number for ids in told["phoneme_id_map"].values() for number in ids})
    cases = [proved(model, drawn, noises, feeds) for feeds in _feeds(model, symbols, scales)]
    names = options.get("voices") or ",".join(_speaker_names(told, speakers))
    voices = voice_table(max(speakers, 1), names, language)
    rate = int(told["audio"]["sample_rate"])
    inputs = noise_inputs(noises, cases, ids="input", audio="output", rate=rate, most_tokens=MOST_TOKENS)
    parts = Parts(drawn, inputs, cases, rate, options)
    ids = (
        text.ids(SENTENCE)
        if language.startswith("en") and text.front.get("phonemiser") != "espeak"
        else cases[-1][0]["input"][0]
    )
    references = _references(drawn, inputs, ids, scales, voices, rate)
    if text.front.get("phonemiser") != "espeak":
        add_texts(references, text.ids, [SENTENCE])
    return Exported(
        name=f"piper_{checkpoint.label}".lower().replace("-", "_"),
        kind="tts",
        engine="piper",
        graphs=parts.graphs(work),
        front={
            "kind": "piper",
            "text": text.front,
            "sample_rate": rate,
            **dict(zip(("noise_scale", "length_scale", "noise_w"), scales, strict=True)),
            "noise": [one._asdict() for one in inputs],
            "most_tokens": MOST_TOKENS,
            **parts.front,
            "voices": voices,
            **({"seed": int(options["seed"])} if "seed" in options else {}),
        },
        files=text.files,
        front_reference=references,
        parameters=parameters_of(voices, rate),
        license=options.get("license") or _license(checkpoint),
        license_text=_card(checkpoint),
    )


def _read(checkpoint: Checkpoint, work: Path, options: Mapping[str, str]) -> tuple[Any, dict[str, Any]]:
    """The graph and its settings. Raises: ExportError."""
    folder = checkpoint.folder
    if folder is None:
        write_random(checkpoint, work, int(options.get("speakers", "1")))
        folder = work
    graphs = sorted(folder.glob("*.onnx"))
    if len(graphs) != 1:
        raise ExportError(
            f"{checkpoint.source} holds {len(graphs)} .onnx files; a Piper voice is one, with its .onnx.json"
        )
    try:
        told = json.loads(Path(f"{graphs[0]}.json").read_text("utf-8"))
        model = onnx.load(str(graphs[0]))
        there = {value.name for value in model.graph.input}
        missing = [name for name in INPUTS if name not in there]
        if missing or "output" not in {value.name for value in model.graph.output}:
            raise ExportError(
                f"{graphs[0].name} is no Piper voice: it lacks {', '.join(missing) or 'output'}"
            )
        for key in ("audio", "inference", "phoneme_id_map"):
            told[key]
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(f"{graphs[0].name} and its .json cannot be read: {error}") from None
    # Newer voices tell their durations too; nobody asks for those here.
    kept = [value for value in model.graph.output if value.name == "output"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return model, told


def _text(told: Mapping[str, Any], language: str, options: Mapping[str, str]) -> VoiceText:
    """Raises: ExportError."""
    kind, symbols = told.get("phoneme_type", "espeak"), told["phoneme_id_map"]
    if kind == "text":
        begin, pad, end = (list(symbols[mark]) for mark in "^_$")
        own = {symbol: ids for symbol, ids in symbols.items() if symbol not in "^_$"}
        return voice_text(
            *text_files(
                "characters", own, language=language, begin=begin + pad, after=pad, end=end, lower=True
            )
        )
    if kind != "espeak":
        raise ExportError(
            f"this Piper voice reads {kind}; voices that read espeak's phonemes or letters can be imported"
        )
    english = language.split("-")[0] == "en"
    if options.get("phonemiser", "" if english else "espeak") == "espeak":
        return voice_text(*espeak_text(symbols, str(told.get("espeak", {}).get("voice", language.lower()))))
    return voice_text(*piper_text(symbols, language=language))


def _feeds(model: Any, symbols: list[int], scales: list[float]) -> list[Feeds]:
    several = any(value.name == "sid" for value in model.graph.input)
    rng = np.random.default_rng(0)
    return [
        {
            "input": rng.choice(symbols, (1, size)).astype(np.int64),
            "input_lengths": np.array([size], np.int64),
            "scales": np.array(scales, np.float32),
            **({"sid": np.zeros(1, np.int64)} if several else {}),
        }
        for size in SIZES
    ]


def _references(
    drawn: Any,
    noise: list[NoiseInput],
    ids: NDArray[np.int64],
    scales: list[float],
    voices: list[dict[str, Any]],
    rate: int,
) -> dict[str, NDArray[np.generic]]:
    """Each voice's gain, and what the whole graph says with a front's noise of the seed 0."""
    run = run_of(drawn)
    several = any(value.name == "sid" for value in drawn.graph.input)
    references: dict[str, NDArray[np.generic]] = {}
    gains: list[float] = []
    for voice in voices[: vits_reference.MEASURED]:
        feeds: Feeds = {
            "input": ids[None], "input_lengths": np.array([len(ids)], np.int64), "scales": np.array(scales, np.float32),
            **({"sid": np.array([voice["speaker"]], np.int64)} if several else {}),
        }  # fmt: skip
        counts = [1] * len(noise)
        while True:
            drawn_now = {
                one.name: one.draw(0, index, count)
                for index, (one, count) in enumerate(zip(noise, counts, strict=True))
            }
            made = run({**feeds, **drawn_now})
            taken = [int(made[one.size][0]) for one in noise]
            if taken == counts:
                break
            counts = taken
        audio = made["output"].reshape(-1)
        gains.append(vits_reference.LEVEL / max(vits_reference.voiced_level(audio, rate), 1e-4))
        if voice in (voices[0], voices[-1]):
            number = len(references) // 4
            references |= {
                f"ids_{number}": ids, f"seed_{number}": np.array(0), f"audio_{number}": audio,
                f"voice_{number}": np.array(voice["name"]),
            }  # fmt: skip
    gains += [float(np.mean(gains))] * (len(voices) - len(gains))
    for voice, gain in zip(voices, gains, strict=True):
        voice["gain"] = round(gain, 4)
    return references


def _speaker_names(told: Mapping[str, Any], speakers: int) -> list[str]:
    known = {int(number): str(name) for name, number in told.get("speaker_id_map", {}).items()}
    return (
        [known.get(n, f"speaker{n}").replace(",", " ") for n in range(speakers)]
        if speakers > 1
        else ["default"]
    )


def _card(checkpoint: Checkpoint) -> str:
    card = checkpoint.folder / "MODEL_CARD" if checkpoint.folder else None
    return card.read_text("utf-8", errors="replace") if card and card.exists() else ""


def _license(checkpoint: Checkpoint) -> str:
    """Of the voice, where the option says none: its card describes it in prose, if at all."""
    return "CC0-1.0" if checkpoint.is_random else "LicenseRef-see-model-card"
