"""Parakeet CTC, RNN-T and TDT: transformers' own generate against the exported graphs behind their front."""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.triton.exported.reference import compare, load
from gateway.triton.models.asr.buffered import Buffered
from gateway.triton.models.asr.engine import Heard, Job, Word
from gateway.triton.models.exported import Folder
from parley_export.checkpoint import ExportError, open_checkpoint
from parley_export.families import parakeet_ctc
from parley_export.onnx_graph import ort_run
from tests.support.exported import exported

KINDS = {"ctc": ("parakeet-ctc",), "rnnt": ("parakeet-rnnt",), "tdt": ("parakeet-rnnt", "tdt=true")}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@functools.cache
def repository(kind: str) -> Path:
    return exported(*KINDS[kind])


def front(kind: str) -> Path:
    return repository(kind) / f"asr_parakeet_{kind}_small"


def transcriber(kind: str) -> Any:
    folder = Folder(front(kind) / "1")
    assert folder.front["kind"] == "buffered"
    return importlib.import_module(f"gateway.triton.models.asr.{folder.front['decoder']}").transcriber(folder)


def reference(kind: str) -> tuple[list[Any], list[list[int]]]:
    told = np.load(front(kind) / "reference" / "front.npz")
    count = sum(name.startswith("audio_") for name in told.files)
    return [told[f"audio_{n}"] for n in range(count)], [told[f"tokens_{n}"].tolist() for n in range(count)]


def test_the_front_says_what_transformers_says(kind: str) -> None:
    mine = transcriber(kind)
    audios, tokens = reference(kind)
    assert len({token for said in tokens for token in said}) > 5
    assert [mine.decode([audio])[0].tokens for audio in audios] == tokens


def test_a_batch_of_unequal_lengths_says_what_each_says_alone(kind: str) -> None:
    mine = transcriber(kind)
    audios, _ = reference(kind)
    audios = [audios[2], audios[0], audios[1][:100], audios[1], audios[0][:20_000]]
    assert mine.decode(audios) == [mine.decode([audio])[0] for audio in audios]


def test_graphs_say_what_was_recorded_from_torch(kind: str) -> None:
    folder = Folder(front(kind) / "1")
    for name, model in folder.front["graphs"].items():
        graph = folder.graph(name).spec
        rows = compare(
            graph,
            load(repository(kind) / model / "reference.npz"),
            ort_run(graph, repository(kind) / model / "1" / "model.onnx"),
        )
        assert len(rows) > 10
        assert all(row.ok for row in rows)


def test_chunk_by_chunk_ends_with_the_whole_utterance(kind: str) -> None:
    mine = transcriber(kind)
    audios, _ = reference(kind)
    whole = mine.transcribe([audios[0]], [""])[0]
    assert whole
    for size in (1280, 7680, 24_001):
        buffered = Buffered(mine, agreement=0)
        utterance = buffered.begin()
        for at in range(0, len(audios[0]), size):
            buffered.step([Job(utterance, audios[0][at : at + size], False)])
        (heard,) = buffered.step([Job(utterance, audios[0][:0], True)])
        # A frame may end behind the audio: nobody is told of a time that has not been.
        end = len(audios[0]) // 16
        assert heard == Heard([Word(text, first, min(last, end)) for text, first, last in whole], len(whole))


def test_words_lie_in_order_within_the_audio(kind: str) -> None:
    audios, _ = reference(kind)
    words = transcriber(kind).transcribe(audios, [""] * len(audios))
    for audio, heard in zip(audios, words, strict=True):
        edges = [edge for word in heard for edge in word[1:]]
        assert edges == sorted(edges)
        assert not edges or edges[-1] <= len(audio) / 16 + 80


def test_nothing_and_next_to_nothing(kind: str) -> None:
    mine = transcriber(kind)
    short = [np.zeros(size, np.float32) for size in (1, 159, 160, 400)]
    assert mine.transcribe(short[:2], ["", ""]) == [[], []]
    assert len(mine.transcribe(short, [""] * 4)) == 4


def test_a_beam_finds_what_is_likelier_than_what_greedy_search_finds() -> None:
    """Likelihoods by the forward algorithm over all alignments, which knows nothing of beams."""
    folder = Folder(front("rnnt") / "1")
    folder.front["beam"] = 4
    mine = importlib.import_module("gateway.triton.models.asr.transducer").transcriber(folder)
    decoder = mine._search._graph = Surer(folder.graph("decoder"))
    audios, greedy = reference("rnnt")
    found = mine.decode(audios)
    assert found == [mine.decode([audio])[0] for audio in audios]
    features = mine._features.batch(audios)
    made = mine._encoder.run({"FEATURES": features.features, "LENGTHS": features.lengths})
    scored = mine._search.best(made["ENCODED"], made["FRAMES"].reshape(-1))
    gained = []
    for encoded, frames, best, said in zip(made["ENCODED"], made["FRAMES"], scored, greedy, strict=True):
        heard = encoded[: int(frames)]
        mass = forward(decoder, folder.front, heard, list(best.tokens))
        # Some alignments were pruned; most of the probability was not.
        assert mass - 1.0 < best.score < mass + 1e-2
        gained.append(
            mass / (len(best.tokens) + 1) - forward(decoder, folder.front, heard, said) / (len(said) + 1)
        )
    assert [list(best.tokens) for best in scored] == [labels.tokens for labels in found]
    assert min(gained) >= -1e-5
    assert max(gained) > 0.01


class Surer:
    """Random weights hold everything possible, so that a small beam loses its way; greedy search says the same."""

    def __init__(self, graph: Any) -> None:
        self.spec, self._graph = graph.spec, graph

    def run(self, feeds: Any, outputs: Any = ()) -> dict[str, Any]:
        made = self._graph.run(feeds, outputs)
        return made | {"LOGITS": made["LOGITS"] * 4}


def forward(graph: Any, settings: dict[str, Any], encoded: Any, tokens: list[int]) -> float:
    """Log-probability of the tokens over all alignments with at most max_symbols a frame. encoded [S, D]."""
    blank, most = settings["blank"], settings["max_symbols"]
    states = {state.input: np.zeros((1, *state.dims), np.float32) for state in graph.spec.states}
    logs = []
    for number, token in enumerate([blank, *tokens]):
        start = np.full((1, 1), float(number == 0), np.float32)
        feeds = {"ENCODED": encoded[None], "TOKEN": np.array([token]), "START": start, **states}
        made = graph.run(feeds)
        states = {state.input: made[state.output] for state in graph.spec.states}
        logits = made["LOGITS"][0].astype(np.float64)
        logs.append(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    entered = np.full(len(tokens) + 1, -np.inf)
    entered[0] = 0.0
    for frame in range(len(encoded)):
        blanks = np.array([log[frame, blank] for log in logs])
        says = np.array([log[frame, token] for log, token in zip(logs, tokens, strict=False)])
        inside, entered = entered, entered + blanks
        for symbols in range(1, most + 1):
            inside = np.concatenate([[-np.inf], inside[:-1] + says])
            entered = np.logaddexp(entered, inside + (blanks if symbols < most else 0.0))
    return float(entered[-1])


def test_a_beam_of_durations_is_refused() -> None:
    folder = Folder(front("tdt") / "1")
    folder.front["beam"] = 2
    with pytest.raises(ValueError, match="greedily only"):
        importlib.import_module("gateway.triton.models.asr.transducer").transcriber(folder)


@pytest.mark.parametrize("window", [1, 2, 16])
def test_the_window_changes_nothing(window: int) -> None:
    for kind in ("rnnt", "tdt"):
        mine = transcriber(kind)
        audios, tokens = reference(kind)
        mine._search._window = window
        assert [one.tokens for one in mine.decode(audios)] == tokens


def test_what_is_written_beside_the_graphs(kind: str) -> None:
    told = json.loads((front(kind) / "provenance.json").read_text())
    assert all(one["worst_difference"] <= one["tolerance"] for one in told["parity"].values())
    settings = json.loads((front(kind) / "1" / "front.json").read_text())
    assert settings["encoder_frame_ms"] == 80.0
    assert settings["features"]["normalize"] == "per_feature"
    assert settings["agreement"] == 0  # of random weights
    assert len(json.loads((front(kind) / "1" / "tokens.json").read_text())["pieces"]) == 97


def test_an_option_that_is_no_number_is_refused() -> None:
    with pytest.raises(ExportError, match="max_s"):
        parakeet_ctc.export(open_checkpoint("parakeet-ctc", "random:small"), {"max_s": "long"})
