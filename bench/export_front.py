"""An exported model's front and graphs in this process, as they run inside Triton: what they cost, and where.

`python -m bench.export_front FOLDER WORK.npz FOUND.json [quick]` writes what was asked of the model into WORK.npz, so that
torch and Triton can be asked the same, and what it cost into FOUND.json.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.export_plan import SEED, SENTENCE, UTTERANCE_S, Plan
from gateway.triton.models.asr.engine import AnyRecogniser, Job
from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import LoadedGraph
from gateway.triton.models.text import load_text
from load.run.usage import rss_mb
from parley_export.sounds import bursts

Array = NDArray[Any]
RATE = 16_000
CODEC_S = 4.0
"""Of codes, for a voice whose text an LLM reads."""


class Watched:
    """A graph, and the CPU that it took."""

    def __init__(self, graph: LoadedGraph) -> None:
        self.spec = graph.spec
        self._graph = graph
        self.calls, self.cpu_s = 0, 0.0
        self.dearest: tuple[float, dict[str, Array]] = (0.0, {})
        """CPU and inputs of the call that took most."""

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        began = time.process_time()
        made = self._graph.run(feeds, outputs)
        took = time.process_time() - began
        self.calls += 1
        self.cpu_s += took
        if took > self.dearest[0]:
            self.dearest = (took, dict(feeds))
        return made


class WatchedFolder(Folder):
    """A model's folder whose graphs are watched."""

    def __init__(self, version: Path) -> None:
        super().__init__(version)
        self.graphs: dict[str, Watched] = {}

    def parameter(self, name: str, default: str = "") -> str:
        # A codec's front is made, its LLM never asked.
        return "http://127.0.0.1:9/v1" if name == "llm" else super().parameter(name, default)

    def graph(self, name: str) -> LoadedGraph:
        self.graphs[name] = Watched(super().graph(name))
        return self.graphs[name]


def measure(model: Path, work: Path, plan: Plan) -> dict[str, Any]:
    """model: …/NAME with its graphs beside it. What was found, JSON's values alone."""
    folder = WatchedFolder(model / "1")
    kind = "asr" if model.name.startswith("asr_") else "tts"
    engine = importlib.import_module(f"gateway.triton.models.{kind}.{folder.front['kind']}").load(folder)
    before_mb = rss_mb([os.getpid()])
    found = (_recogniser if kind == "asr" else _voice)(engine, folder, work, plan)
    return found | {"kind": kind, "rss_mb": rss_mb([os.getpid()]), "loaded_mb": before_mb}


def _recogniser(engine: AnyRecogniser, folder: WatchedFolder, work: Path, plan: Plan) -> dict[str, Any]:
    most = max(plan.sizes)
    audios = [bursts(UTTERANCE_S, SEED + number) for number in range(most)]
    np.savez(work, audio=np.stack(audios))

    def hear(count: int) -> list[Any]:
        """Whole utterances at once, each decoded once."""
        heard = engine.step([Job(engine.begin(), audio, True) for audio in audios[:count]])
        for one in heard:
            if isinstance(one, Exception):
                raise one
        return heard

    words = len(hear(1)[0].words)
    cost = _cost(lambda: hear(1), folder, plan)
    batch = _sizes(hear, [n for n in plan.sizes if n > 1], cost["cpu_s"], plan)
    return cost | {
        "audio_s": UTTERANCE_S,
        "words": words,
        "batch": {"1": cost["cpu_s"], **batch},
        "batch_of": "utterances",
    }


def _voice(engine: Any, folder: WatchedFolder, work: Path, plan: Plan) -> dict[str, Any]:
    said = _said(engine, folder, work)
    audio = engine.audio(said, SEED)
    cost = _cost(lambda: engine.audio(said, SEED), folder, plan)
    name = max(folder.graphs, key=lambda one: folder.graphs[one].cpu_s)
    graph = folder.graphs[name]
    feeds, spec = graph.dearest[1], graph.spec

    def rows(count: int) -> Any:
        return graph.run({key: np.repeat(value, count, 0) for key, value in feeds.items()})

    batch: dict[str, float] = {}
    if spec.max_batch:
        rows(1)
        one = min(_timed(lambda: rows(1)) for _ in range(plan.repeats))
        sizes = [n for n in plan.sizes if 1 < n <= spec.max_batch]
        batch = {"1": one, **_sizes(rows, sizes, one, plan)}
    return cost | {"audio_s": len(audio) / engine.rate, "batch": batch, "batch_of": f"rows of {name}"}


def _said(engine: Any, folder: WatchedFolder, work: Path) -> Any:
    """What the engine is asked to say; for torch it goes into `work`, as ids or codes."""
    front = folder.front
    if front["kind"] == "codec":
        rows, size = int(front["rows"]), int(front["tokens"]["codebook_size"])
        frames = math.ceil(CODEC_S * engine.rate / int(front["samples"]))
        codes = np.random.default_rng(SEED).integers(0, size, (rows, frames))
        np.savez(work, ids=codes)
        return codes
    key = front["texts"][engine.voices[0].language] if "texts" in front else "text"
    np.savez(work, ids=load_text(folder, key)(SENTENCE))
    return SENTENCE


def _cost(run: Callable[[], Any], folder: WatchedFolder, plan: Plan) -> dict[str, Any]:
    """The least CPU of some runs, after one that was not counted; what of it the graphs took."""
    best: dict[str, Any] = {"cpu_s": math.inf}
    for _ in range(plan.repeats):
        for graph in folder.graphs.values():
            graph.calls, graph.cpu_s = 0, 0.0
        took = _timed(run)
        if took < best["cpu_s"]:
            graphs = {name: {"cpu_s": g.cpu_s, "calls": g.calls} for name, g in folder.graphs.items()}
            best = {"cpu_s": took, "graphs": graphs}
    return best


def _sizes(run: Callable[[int], Any], sizes: Sequence[int], one: float, plan: Plan) -> dict[str, float]:
    """CPU of each row or utterance, by how many there are at once."""
    found: dict[str, float] = {}
    for size in sizes:
        expected = size * one
        if expected > plan.longest_s:
            break
        if expected < plan.longest_s / 8:
            run(size)  # not counted: what is made once for every size; in long runs it is lost
        one = _timed(lambda: run(size)) / size  # noqa: B023
        found[str(size)] = one
    return found


def _timed(run: Callable[[], Any]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def main() -> int:
    model, work, found, *how = sys.argv[1:]
    plan = Plan.short() if how == ["quick"] else Plan()
    Path(found).write_text(json.dumps(measure(Path(model), Path(work), plan)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
