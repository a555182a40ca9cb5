"""Greedy and beam search over a batch of utterances, in numpy: the tokens that transformers' generate writes.

The decoder is asked for one token after the other for all utterances at once. Rows whose text has ended leave the
batch when they are a quarter of it: what the others remember is copied then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
NEVER = -1.0e9
"""transformers' score of what is not there: far below any text's, and finite."""
LEAVE = 4
"""Ended rows go when they are one in so many."""


class Steps(Protocol):
    """A decoder amid a batch: what each row was fed so far is remembered."""

    def step(self, ids: Ints) -> tuple[Floats, Floats | None]:
        """ids [rows, tokens] -> logits [rows, vocabulary] after the last, attention [rows, heads, tokens, frames]."""
        ...

    def keep(self, rows: Ints) -> None:
        """Go on with these rows in this order; a row may be there twice."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    ends: frozenset[int]
    suppress: Ints
    """Never written."""
    begin_suppress: Ints
    """Never written first."""
    length_penalty: float = 1.0


class Written(NamedTuple):
    tokens: list[int]
    """Without prompt and end."""
    attention: list[Floats]
    """[heads, frames] of the step that wrote each token, and of the one that wrote the end, where that was reached. What
    a token attends to once it is fed is what the next one is heard in."""


class Trail:
    """What was attended to for token after token; beams share what they have in common."""

    __slots__ = ("before", "seen")

    def __init__(self, before: Trail | None, seen: Floats) -> None:
        self.before, self.seen = before, seen


def greedy(steps: Steps, prompts: Ints, limits: Sequence[int], rules: Rules) -> list[Written]:
    """prompts [rows, tokens], limits: most tokens of each row's text, beyond its prompt."""
    written = [Written([], []) for _ in limits]
    alive = [limit > 0 for limit in limits]
    rows = list(range(len(limits)))  # whose row of the batch each is
    if not any(alive):
        return written
    logits, seen = steps.step(prompts)
    scores = without(without(logits, rules.suppress), rules.begin_suppress)
    while True:
        chosen = scores.argmax(axis=1)
        for at, row in enumerate(rows):
            if not alive[row]:
                continue
            if seen is not None:
                written[row].attention.append(seen[at, :, -1])
            token = int(chosen[at])
            if token in rules.ends:
                alive[row] = False
                continue
            written[row].tokens.append(token)
            alive[row] = len(written[row].tokens) < limits[row]
        on = [at for at, row in enumerate(rows) if alive[row]]
        if not on:
            return written
        if (len(rows) - len(on)) * LEAVE >= len(rows):
            steps.keep(np.array(on, np.int64))
            rows = [rows[at] for at in on]
            chosen = chosen[on]
        logits, seen = steps.step(chosen[:, None])
        scores = without(logits, rules.suppress)


class Beam(NamedTuple):
    score: float
    tokens: tuple[int, ...]
    trail: Trail | None
    row: int
    """Of its utterance's rows, the one that it continues."""
    seen: Floats | None = None
    """What its next token is heard in."""


class Beams:
    """One utterance's; the rules are those of transformers' `_beam_search` (5.23) without early stopping."""

    def __init__(self, width: int, limit: int, rules: Rules) -> None:
        self.width, self.limit, self.rules = width, limit, rules
        self.running = [Beam(0.0 if at == 0 else NEVER, (), None, at) for at in range(width)]
        self.finished: list[Beam] = []
        self.open = limit > 0

    def advance(self, logs: Floats) -> None:
        """logs [width, vocabulary]: the next token's log-probabilities in each running beam."""
        scores = (logs + np.array([[beam.score] for beam in self.running], np.float32)).reshape(-1)
        count = max(2, 1 + len(self.rules.ends)) * self.width
        best = np.argpartition(-scores, count)[:count] if count < len(scores) else np.arange(len(scores))
        best = best[np.argsort(-scores[best], kind="stable")]
        length = len(self.running[0].tokens) + 1
        going: list[Beam] = []
        for rank, at in enumerate(best.tolist()):
            row, token = divmod(at, logs.shape[1])
            before = self.running[row]
            trail = before.trail if before.seen is None else Trail(before.trail, before.seen)
            beam = Beam(float(scores[at]), (*before.tokens, token), trail, row)
            if token not in self.rules.ends and length < self.limit:
                going.append(beam)
            elif rank < self.width:
                self.finished.append(beam._replace(score=beam.score / length**self.rules.length_penalty))
        self.finished.sort(key=lambda beam: -beam.score)
        del self.finished[self.width :]
        if not going:
            self.open = False
            return
        spare = [Beam(NEVER, going[0].tokens, going[0].trail, going[0].row)] * (self.width - len(going))
        self.running = [*going, *spare][: self.width]
        possible = self.running[0].score / length**self.rules.length_penalty
        self.open = len(self.finished) < self.width or possible > self.finished[-1].score

    def stepped(self, seen: Floats | None) -> None:
        """The running beams' rows are in their order now. seen [width, heads, frames]: what their next tokens are
        heard in."""
        self.running = [
            beam._replace(row=at, seen=None if seen is None else seen[at])
            for at, beam in enumerate(self.running)
        ]

    def best(self) -> Written:
        if not self.finished:
            return Written([], [])
        beam = self.finished[0]
        tokens = list(beam.tokens)
        if tokens and tokens[-1] in self.rules.ends:
            tokens.pop()
        attention: list[Floats] = []
        trail = beam.trail
        while trail is not None:
            attention.append(trail.seen)
            trail = trail.before
        return Written(tokens, attention[::-1])


def beam_search(
    steps: Steps, prompts: Ints, limits: Sequence[int], rules: Rules, width: int
) -> list[Written]:
    """As `greedy`; width: beams of each utterance, at least 2."""
    everybody = [Beams(width, limit, rules) for limit in limits]
    if not any(one.open for one in everybody):
        return [one.best() for one in everybody]
    logits, seen = steps.step(prompts)
    if seen is not None:
        for beams, row in zip(everybody, seen, strict=True):
            beams.stepped(np.repeat(row[None, :, -1], width, axis=0))
    steps.keep(np.repeat(np.arange(len(limits)), width))
    logs = np.repeat(
        without(without(log_softmax(logits), rules.suppress), rules.begin_suppress), width, axis=0
    )
    held = list(range(len(limits)))  # whose rows the batch holds, `width` each
    while True:
        for at, one in enumerate(held):
            if everybody[one].open:
                everybody[one].advance(logs[at * width : (at + 1) * width])
        on = [at for at, one in enumerate(held) if everybody[one].open]
        if not on:
            return [one.best() for one in everybody]
        if (len(held) - len(on)) * LEAVE < len(held):
            on = list(range(len(held)))
        rows = [at * width + beam.row for at in on for beam in everybody[held[at]].running]
        held = [held[at] for at in on]
        steps.keep(np.array(rows, np.int64))
        # An utterance without room for a token has none; its rows are fed something until they leave.
        last = [beam.tokens[-1] if beam.tokens else 0 for one in held for beam in everybody[one].running]
        logits, seen = steps.step(np.array(last, np.int64)[:, None])
        logs = without(log_softmax(logits), rules.suppress)
        for at, one in enumerate(held):
            if everybody[one].open:
                mine = slice(at * width, (at + 1) * width)
                everybody[one].stepped(None if seen is None else seen[mine, :, -1])


def without(scores: Floats, tokens: Ints) -> Floats:
    """scores [rows, vocabulary], a copy in which these tokens are impossible."""
    if not len(tokens):
        return scores
    scores = scores.copy()
    scores[:, tokens] = -np.inf
    return scores


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float32)
