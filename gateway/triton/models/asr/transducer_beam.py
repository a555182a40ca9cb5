"""RNN transducers with a small beam: several hypotheses of each utterance, all of all utterances in one batch.

The idea is icefall's modified beam search: frame by frame, hypotheses with the same tokens are one whose probability
is their sum, and the best few stay. There a frame has one token at most; here up to `max_symbols`, behind which the
search moves on without a blank, as greedy search does: with one hypothesis it finds what greedy search finds.
At the end the most likely hypothesis a token wins: log-probability / (tokens + 1), the one being the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.asr.ctc import Labels
from gateway.triton.models.asr.search import log_softmax
from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import LoadedGraph

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
MOST_BEAMS = 8
APART = 12.0
"""Nats: a hypothesis so far behind its frame's best one is not worth another run of the graph."""


def beam_of(folder: Folder, durations: Sequence[int]) -> int:
    """Parameter `beam`; 1 is greedy. Raises: ValueError, in a sentence."""
    said = folder.parameter("beam", "1")
    if not (said.isascii() and said.isdecimal() and 1 <= int(said) <= MOST_BEAMS):
        raise ValueError(f'parameter beam is "{said}"; with a transducer it may be 1 to {MOST_BEAMS}')
    if durations and int(said) > 1:
        raise ValueError(
            f"parameter beam is {said}; a token-and-duration transducer (TDT) is searched greedily only: set it to 1"
        )
    return int(said)


class BeamSearch:
    """Over a decoder graph ENCODED [W, D], TOKEN, START, states -> LOGITS [W, vocabulary], states.

    window: frames told at once behind the same token; it changes no result. No utterance has more than max_symbols
    rounds a frame, of at most `beam` hypotheses each; greedy search has one step less in all, as transformers does.
    """

    def __init__(self, graph: LoadedGraph, *, blank: int, max_symbols: int, beam: int, window: int) -> None:
        if window < 1 or max_symbols < 1 or beam < 1:
            raise ValueError("a transducer's search needs a window, max_symbols and a beam of at least 1")
        self._graph = graph
        self._blank = blank
        self._max_symbols = max_symbols
        self._beam = beam
        self._window = window
        self._states = list(graph.spec.states)

    def run(self, encoded: Floats, frames: Ints) -> list[Labels]:
        """encoded [B, S, D], frames [B]: the valid ones of each. Raises: GraphError."""
        return [
            Labels(list(best.tokens), list(best.frames), [frame + 1 for frame in best.frames])
            for best in self.best(encoded, frames)
        ]

    def best(self, encoded: Floats, frames: Ints) -> list[Hypothesis]:
        """As `run`, with scores."""
        first = Hypothesis((), (), 0.0, self._blank, [np.zeros(s.dims, np.float32) for s in self._states])
        rows = [_Utterance(int(count), first, self._blank, self._max_symbols, self._beam) for count in frames]
        while waiting := [(row, one) for row, utterance in enumerate(rows) for one in utterance.waiting()]:
            # As many as the graph takes; all of them where it says nothing.
            size = self._graph.spec.max_batch or len(waiting)
            for at in range(0, len(waiting), size):
                few = waiting[at : at + size]
                self._ask(
                    encoded,
                    [row for row, _ in few],
                    [rows[row].frame for row, _ in few],
                    [one for _, one in few],
                )
            for utterance in rows:
                while not (utterance.over or utterance.waiting()):
                    utterance.advance()
        return [utterance.best() for utterance in rows]

    def _ask(
        self, encoded: Floats, rows: Sequence[int], frames: Sequence[int], asking: Sequence[Hypothesis]
    ) -> None:
        at = np.array(frames)[:, None] + np.arange(min(self._window, encoded.shape[1]))
        feeds = {
            "ENCODED": encoded[np.array(rows)[:, None], np.minimum(at, encoded.shape[1] - 1)],
            "TOKEN": np.array([one.token for one in asking], np.int64),
            self._graph.spec.start: np.array([[float(not one.begun)] for one in asking], np.float32),
        }
        for number, state in enumerate(self._states):
            feeds[state.input] = np.stack([one.states[number] for one in asking])
        made = self._graph.run(feeds, ["LOGITS", *(state.output for state in self._states)])
        logits = made["LOGITS"]
        logs = log_softmax(logits.reshape(-1, logits.shape[2])).reshape(logits.shape)
        for place, one in enumerate(asking):
            one.told, one.told_at, one.begun = logs[place], frames[place], True
            one.token, one.states = self._blank, [made[state.output][place] for state in self._states]


@dataclass(slots=True, eq=False)
class Hypothesis:
    """What may have been said so far, and what the graph made of it."""

    tokens: tuple[int, ...]
    frames: tuple[int, ...]
    """Of each token, on the likeliest way here."""
    score: float
    """Log-probability of all ways here that were kept."""
    token: int
    """The last one where the states have not heard it, else blank."""
    states: list[Floats]
    begun: bool = False
    told: Floats | None = None
    """Log-probabilities behind these tokens [frames, vocabulary] …"""
    told_at: int = 0
    """… from this frame on."""

    @property
    def likelihood(self) -> float:
        """That of a token, by which hypotheses of different lengths compare; the start counts as one."""
        return self.score / (len(self.tokens) + 1)

    def at(self, frame: int) -> Floats | None:
        """[vocabulary], or None where the graph has to be asked."""
        if self.told is None or frame >= self.told_at + len(self.told):
            return None
        return np.asarray(self.told[frame - self.told_at])


class _Utterance:
    """One utterance's hypotheses amid a frame."""

    def __init__(self, frames: int, first: Hypothesis, blank: int, max_symbols: int, beam: int) -> None:
        self._frames = frames
        self._blank = blank
        self._max_symbols = max_symbols
        self._beam = beam
        self.frame = 0
        self._symbols = 0
        """Tokens that the open ones have said in this frame."""
        self._open = [replace(first)]
        self._done: dict[tuple[int, ...], Hypothesis] = {}
        """Those that have left it, by their tokens."""

    @property
    def over(self) -> bool:
        return self.frame >= self._frames

    def waiting(self) -> list[Hypothesis]:
        """Those that the graph has to be asked about."""
        return [] if self.over else [one for one in self._open if one.at(self.frame) is None]

    def advance(self) -> None:
        """A blank and the likeliest tokens behind every open hypothesis; none of them waits."""
        scores = np.array([one.at(self.frame) for one in self._open], np.float64)
        scores += np.array([[one.score] for one in self._open])
        blanks = scores[:, self._blank].tolist()
        scores[:, self._blank] = -np.inf
        self._symbols += 1
        # A token is before a blank as likely as it, as in greedy search.
        grown = self._grown(scores)
        if self._symbols == self._max_symbols:
            for one in grown:
                self._leave(one)
            grown = []
        for one, score in zip(self._open, blanks, strict=True):
            self._leave(replace(one, score=score))
        kept = sorted([*grown, *self._done.values()], key=lambda one: -one.score)[: self._beam]
        kept = [one for one in kept if one.score >= kept[0].score - APART]
        stay = {id(one) for one in kept}
        self._open = [one for one in grown if id(one) in stay]
        self._done = {tokens: one for tokens, one in self._done.items() if id(one) in stay}
        if not self._open:
            self._open, self._done = list(self._done.values()), {}
            self.frame += 1
            self._symbols = 0

    def _grown(self, scores: NDArray[np.float64]) -> list[Hypothesis]:
        """The `beam` likeliest by one token more. scores [open, vocabulary]."""
        flat = scores.reshape(-1)
        count = min(self._beam, len(flat) - 1)
        found = []
        for place in np.argpartition(-flat, count)[:count].tolist():
            row, token = divmod(place, scores.shape[1])
            if flat[place] > -np.inf:
                one = self._open[row]
                found.append(
                    replace(
                        one,
                        tokens=(*one.tokens, token),
                        frames=(*one.frames, self.frame),
                        score=float(flat[place]),
                        token=token,
                        told=None,
                    )
                )
        return found

    def _leave(self, one: Hypothesis) -> None:
        """To the next frame, together with what has said the same."""
        known = self._done.get(one.tokens)
        if known is None:
            self._done[one.tokens] = one
            return
        # What the graph made of the same tokens is the same; one of them may not have asked it yet.
        asked = known if known.told is not None else one
        self._done[one.tokens] = replace(
            asked,
            frames=(one if one.score > known.score else known).frames,
            score=float(np.logaddexp(known.score, one.score)),
        )

    def best(self) -> Hypothesis:
        return max(self._open, key=lambda one: one.likelihood)
