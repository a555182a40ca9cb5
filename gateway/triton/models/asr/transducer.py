"""RNN and token-and-duration transducers: an encoder graph, then one decoder-and-joint graph for all utterances.

The decoder graph looks at several frames at once behind the same last token. While those say blank the search
walks on without asking again, so it asks about once a token and not once a frame; each token is exactly the one
that frame-by-frame greedy search finds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.asr.ctc import Labels, words_of
from gateway.triton.models.asr.engine import Samples, Word
from gateway.triton.models.asr.features_batch import FeatureBatch
from gateway.triton.models.asr.transducer_beam import BeamSearch, beam_of
from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import LoadedGraph
from gateway.triton.models.pieces import Pieces

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class TransducerTranscriber:
    """`Transcriber` of the graphs encoder (FEATURES [T, mels], LENGTHS -> ENCODED [S, D], FRAMES) and decoder.

    front.json: "features", "encoder_frame_ms", "blank", "max_symbols", "durations" ([] for an RNN-T), "window",
    "max_s"; parameter `beam`: hypotheses kept of an RNN-T, 1 is greedy.
    """

    def __init__(self, folder: Folder) -> None:
        front = folder.front
        self._encoder = folder.graph("encoder")
        self._search = _search(folder)
        self._features = FeatureBatch(front["features"])
        self._pieces = Pieces(folder.read_json("tokens.json"))
        self._frame_ms = float(front["encoder_frame_ms"])
        self.max_batch = self._encoder.spec.max_batch
        self.max_s = float(front["max_s"])

    def transcribe(self, audios: Sequence[Samples], languages: Sequence[str]) -> list[list[Word]]:
        return [words_of(self._pieces, labels, self._frame_ms) for labels in self.decode(audios)]

    def decode(self, audios: Sequence[Samples]) -> list[Labels]:
        """Token by token; what is too short for a frame has none. Raises: GraphError."""
        batch = self._features.batch(audios)
        found = [Labels([], [], []) for _ in audios]
        if batch is None:
            return found
        made = self._encoder.run({"FEATURES": batch.features, "LENGTHS": batch.lengths})
        decoded = self._search.run(made["ENCODED"], made["FRAMES"].reshape(-1))
        for row, labels in zip(batch.rows, decoded, strict=True):
            found[row] = labels
        return found


def transcriber(folder: Folder) -> TransducerTranscriber:
    return TransducerTranscriber(folder)


def _search(folder: Folder) -> GreedySearch | BeamSearch:
    front = folder.front
    blank, max_symbols = int(front["blank"]), int(front["max_symbols"])
    durations = [int(one) for one in front.get("durations", ())]
    window = int(folder.parameter("window", "4"))
    beam = beam_of(folder, durations)
    decoder = folder.graph("decoder")
    if beam > 1:
        return BeamSearch(decoder, blank=blank, max_symbols=max_symbols, beam=beam, window=window)
    return GreedySearch(decoder, blank=blank, max_symbols=max_symbols, durations=durations, window=window)


class GreedySearch:
    """Over a decoder graph ENCODED [W, D], TOKEN, START, states -> TOKENS [W], DURATIONS [W] (indices), states.

    As transformers' generate: an RNN-T moves on one frame at each blank, or behind max_symbols tokens of one frame;
    a TDT by the duration told with each token or blank, at least 1 at a blank. No utterance has more than
    max_symbols steps a frame.
    """

    def __init__(
        self, graph: LoadedGraph, *, blank: int, max_symbols: int, durations: Sequence[int], window: int
    ) -> None:
        if window < 1 or max_symbols < 1:
            raise ValueError("a transducer's search needs a window and max_symbols of at least 1")
        self._graph = graph
        self._blank = blank
        self._max_symbols = max_symbols
        self._durations = list(durations)
        self._window = window
        self._states = [(state.input, state.output, state.dims) for state in graph.spec.states]
        wanted = ["TOKENS", "DURATIONS"] if self._durations else ["TOKENS"]
        self._outputs = [*wanted, *(new for _, new, _ in self._states)]

    def run(self, encoded: Floats, frames: Ints) -> list[Labels]:
        """encoded [B, S, D], frames [B]: the valid ones of each. Raises: GraphError."""
        rows = [_Row(int(count), int(count) * self._max_symbols - 1) for count in frames]
        active = [at for at, row in enumerate(rows) if row.frames]
        states = {name: np.zeros((len(active), *dims), np.float32) for name, _, dims in self._states}
        window = min(self._window, encoded.shape[1])
        tokens = np.full(len(active), self._blank, np.int64)
        start = np.ones((len(active), 1), np.float32)
        while active:
            at = np.array([rows[row].frame for row in active])[:, None] + np.arange(window)
            seen = encoded[np.array(active)[:, None], np.minimum(at, encoded.shape[1] - 1)]
            feeds = {"ENCODED": seen, "TOKEN": tokens, self._graph.spec.start: start, **states}
            made = self._graph.run(feeds, self._outputs)
            told = made["TOKENS"].tolist()
            steps = made["DURATIONS"].tolist() if self._durations else told
            lasts = [self._walk(rows[row], told[at], steps[at]) for at, row in enumerate(active)]
            stay = [place for place, row in enumerate(active) if not rows[row].over]
            active = [active[place] for place in stay]
            tokens = np.array([lasts[place] for place in stay], np.int64)
            start = np.zeros((len(active), 1), np.float32)
            states = {given: made[new][stay] for given, new, _ in self._states}
        return [row.labels() for row in rows]

    def _walk(self, row: _Row, tokens: Sequence[int], durations: Sequence[int]) -> int:
        """Over the window's frames until a token or the window's end; the token, or blank where there is none."""
        first = row.frame
        while not row.over and row.frame - first < len(tokens):
            token = tokens[row.frame - first]
            step = self._durations[durations[row.frame - first]] if self._durations else 0
            row.steps += 1
            if token == self._blank:
                row.frame += max(step, 1)
                row.symbols = 0
                continue
            row.found.append((token, row.frame, step))
            row.symbols += 1
            if self._durations:
                row.frame += step
            elif row.symbols >= self._max_symbols:
                row.frame += 1
                row.symbols = 0
            return token
        return self._blank


class _Row:
    """One utterance's search."""

    def __init__(self, frames: int, most_steps: int) -> None:
        self.frames = frames
        self.most_steps = max(1, most_steps)
        self.frame = 0
        self.steps = 0
        self.symbols = 0
        """Tokens of this frame, of an RNN-T."""
        self.found: list[tuple[int, int, int]] = []
        """Token, frame, duration."""

    @property
    def over(self) -> bool:
        return self.frame >= self.frames or self.steps >= self.most_steps

    def labels(self) -> Labels:
        tokens, begins, durations = zip(*self.found, strict=True) if self.found else ((), (), ())
        ends = [min(at + max(size, 1), self.frames) for at, size in zip(begins, durations, strict=True)]
        return Labels(list(tokens), list(begins), ends)
