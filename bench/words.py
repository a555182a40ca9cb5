"""Word error rate: the whole gateway beside its recogniser's engine alone."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bench.caller import Caller
from bench.noise import room
from bench.speech import Clip
from gateway.session import events as ev

NORMALISATION = (
    "lower case, no punctuation but apostrophes inside words, `mr` = `mister`, single spaces; "
    "errors are substitutions, deletions and insertions as jiwer aligns them"
)
_SETTLED_S = 1.2
_LONGEST_S = 10.0
_MODEL = Path(__file__).parents[1] / "model_repository" / "asr_pocketsphinx" / "1" / "utterance.py"
_CHUNK = 2_560


@dataclass(slots=True)
class Words:
    """By clip: reference words, errors of the engine alone, errors of each run through the gateway."""

    reference: dict[str, int] = field(default_factory=dict)
    engine: dict[str, int] = field(default_factory=dict)
    gateway: list[dict[str, int]] = field(default_factory=list)
    heard: dict[str, list[str]] = field(default_factory=dict)
    """Transcripts: the engine's first, then each run's."""


def normalised(text: str) -> str:
    words = re.sub(r"[^\w' ]+|(?<!\w)'|'(?!\w)", " ", text.lower().replace("’", "'")).split()
    return " ".join("mister" if word == "mr" else word for word in words)


def errors(reference: str, heard: str) -> int:
    import jiwer

    found = jiwer.process_words(normalised(reference), normalised(heard))
    return int(found.substitutions + found.deletions + found.insertions)


async def measure(address: str, clips: Sequence[Clip], runs: int) -> Words:
    """Every clip in a session of its own, `runs` of them at a time."""
    result = Words()
    for clip in clips:
        result.reference[clip.name] = len(normalised(clip.text).split())
        result.heard[clip.name] = [await asyncio.to_thread(engine_alone, clip)]
        result.engine[clip.name] = errors(clip.text, result.heard[clip.name][0])
    texts = await asyncio.gather(*(_run(address, clips, number) for number in range(runs)))
    for run in texts:
        result.gateway.append({clip.name: errors(clip.text, run[clip.name]) for clip in clips})
        for name, text in run.items():
            result.heard[name].append(text)
    return result


def engine_alone(clip: Clip) -> str:
    """pocketsphinx with the model's settings and dither, fresh state, the clip as one streamed utterance."""
    model = _model()
    decoder: Any = model.load_decoder()
    noise = np.random.default_rng(0)
    decoder.reinit_feat()
    decoder.start_utt()
    audio = clip.samples.astype(np.float32) / 32768
    for at in range(0, len(audio), _CHUNK):
        piece = audio[at : at + _CHUNK]
        noisy = piece + model.DITHER * noise.standard_normal(len(piece), dtype=np.float32)
        decoder.process_raw((np.clip(noisy, -1, 1) * 32767).astype("<i2").tobytes(), False, False)
    decoder.end_utt()
    best = decoder.hyp()
    return "" if best is None else str(best.hypstr)


async def _run(address: str, clips: Sequence[Clip], number: int) -> dict[str, str]:
    await asyncio.sleep(0.7 * number)
    turned = [*clips[number * 3 % len(clips) :], *clips[: number * 3 % len(clips)]]
    return {clip.name: await _through_gateway(address, clip, number) for clip in turned}


async def _through_gateway(address: str, clip: Clip, seed: int) -> str:
    async with Caller(address, sources=(room(seed),)) as caller:
        await asyncio.sleep(0.6)
        said = await caller.microphone.say(clip)
        loop = asyncio.get_running_loop()
        while (now := loop.time()) < said.end + _LONGEST_S:
            last = max((at for at, _ in caller.of(ev.Transcript)), default=0.0)
            last = max([last, said.end, *(at for at, _ in caller.of(ev.SpeechStarted))])
            open_speech = len(caller.of(ev.SpeechStarted)) - sum(t.final for _, t in caller.of(ev.Transcript))
            if open_speech <= 0 and now > last + _SETTLED_S:
                break
            await asyncio.sleep(0.1)
        return " ".join(t.text for _, t in caller.of(ev.Transcript) if t.final).strip()


def _model() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_asr_pocketsphinx", _MODEL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
