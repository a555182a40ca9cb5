"""Utterances that take their steps together say what each says alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.triton.exported.description import Axis, Graph, Tensor
from gateway.triton.models.graphs import GraphError
from gateway.triton.models.tts import stepping
from gateway.triton.models.tts.places import Audience, Gone
from gateway.triton.models.tts.stepping import AHEAD, Stepper, Utterance

Arrays = dict[str, NDArray[Any]]
BINS, LAYERS, HEADS, DEPTH, MOST = 3, 2, 1, 2, 200
SPEC = Graph(
    "step",
    inputs=(
        Tensor("frame", "FP32", (BINS,)),
        Tensor("noise", "FP32", (2, 4)),
        Tensor("position", "INT64", (1,)),
        Tensor("past_keys", "FP32", (LAYERS, HEADS, "past", DEPTH)),
        Tensor("past_values", "FP32", (LAYERS, HEADS, "past", DEPTH)),
    ),
    outputs=(
        Tensor("frames", "FP32", (2, BINS)),
        Tensor("stop", "FP32", (1,)),
        Tensor("key", "FP32", (LAYERS, HEADS, DEPTH)),
        Tensor("value", "FP32", (LAYERS, HEADS, DEPTH)),
    ),
    axes=(Axis("past", 1, 64, MOST),),
    max_batch=4,
)


class Decoder:
    """What a row makes depends on all that it is to be given: its text, its past, its last frame, its noise."""

    spec = SPEC

    def __init__(self, before: Callable[[list[int]], object] = lambda rows: None) -> None:
        self.batches: list[list[int]] = []
        """The embeddings of each step's rows."""
        self.rooms: set[int] = set()
        self._before = before

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] = ()) -> Arrays:
        rows = [int(one) for one in feeds["embedding"][:, 0]]
        self.batches.append(rows)
        self.rooms.add(feeds["past_keys"].shape[3])
        self._before(rows)
        made = [self._row({name: value[at] for name, value in feeds.items()}) for at in range(len(rows))]
        return {name: np.stack([one[name] for one in made]).astype(np.float32) for name in made[0]}

    def _row(self, fed: Arrays) -> Arrays:
        position, length = int(fed["position"][0]), int(fed["length"][0])
        assert not fed["past_keys"][:, :, position:].any(), "nothing lies behind the past"
        text = fed["keys"][:, :, :length].sum() - fed["values"][:, :, :length].sum()
        past = fed["past_keys"][:, :, :position].sum() + 2 * fed["past_values"][:, :, :position].sum()
        first = np.tanh(0.1 * text + 0.01 * past + 0.5 * fed["frame"] + fed["noise"].sum() * 0.2)
        key = np.full((LAYERS, HEADS, DEPTH), first[0])
        return {"frames": np.stack([first, first / 2]), "stop": np.zeros(1), "key": key, "value": key * 0.3}


class Listening:
    """`Listener`"""

    def __init__(self, due: float = 0.0) -> None:
        self.due, self.wanted = due, True

    def __call__(self, samples: NDArray[Any], /) -> bool:
        return self.wanted


def utterance(
    decoder: Decoder, number: int, steps: int = 150, due: float = 0.0, listener: Any = None
) -> Utterance:
    rng = np.random.default_rng(number)
    length = 3 + number
    text = {
        name: rng.standard_normal((1, LAYERS, HEADS, length, DEPTH)).astype(np.float32)
        for name in ("keys", "values")
    }
    listener = listener or Listening(due)
    told = {"embedding": np.full((1, 1), number, np.float32), "length": np.array([[length]]), **text}
    return Utterance(decoder, told, Audience(listener), rng, (steps, steps))


def alone(number: int, steps: int = 150) -> NDArray[np.float32]:
    decoder = Decoder()
    made = list(Stepper(decoder, 0.5).frames(utterance(decoder, number, steps)))
    assert decoder.batches == [[number]] * steps
    return np.concatenate(made, axis=1)


@pytest.mark.parametrize("seed", range(6))
def test_an_utterance_does_not_depend_on_its_company(seed: int) -> None:
    """Joined at random steps, asked in random order, ended at lengths of their own, some given up in the middle."""
    rng = np.random.default_rng(seed)
    decoder = Decoder()
    stepper = Stepper(decoder, 0.5)
    steps = {number: int(rng.integers(60, 170)) for number in range(5)}
    closes = {3: int(rng.integers(5, 50))}
    joins = {number: int(rng.integers(0, 120)) for number in steps}
    going: dict[int, Any] = {}
    made: dict[int, list[NDArray[np.float32]]] = {number: [] for number in steps}
    for turn in range(2000):
        for number in [one for one, at in joins.items() if at <= turn]:
            going[number] = stepper.frames(utterance(decoder, number, steps[number]))
            del joins[number]
        for number in rng.permutation(list(going)).tolist():
            frames = next(going[number], None)
            if frames is None or len(made[number]) == closes.get(number):
                going.pop(number).close()
            else:
                made[number].append(frames)
    assert not going
    assert not joins
    for number, frames in made.items():
        whole = alone(number, steps[number])
        said = np.concatenate(frames, axis=1)
        assert said.shape[1] == 2 * closes.get(number, steps[number])
        np.testing.assert_allclose(said, whole[:, : said.shape[1]], atol=1e-6)
    assert max(map(len, decoder.batches)) >= 3
    assert len(decoder.batches) < 0.7 * sum(steps.values())
    assert decoder.rooms <= {64, 128, 200}


def test_who_joins_is_in_the_next_step_and_who_leaves_in_no_further_one() -> None:
    decoder = Decoder()
    stepper = Stepper(decoder, 0.5)
    one, other = (stepper.frames(utterance(decoder, number)) for number in (1, 2))
    next(one)
    next(other)
    next(one)  # made with the other's first
    next(one)
    assert decoder.batches == [[1], [1, 2], [1, 2]]
    other.close()
    next(one)
    assert decoder.batches[3:] == [[1]]


def test_who_takes_nothing_is_not_stepped_for_ever() -> None:
    decoder = Decoder()
    stepper = Stepper(decoder, 0.5)
    idle, eager = (stepper.frames(utterance(decoder, number)) for number in (1, 2))
    next(idle)
    for _ in range(3 * AHEAD):
        next(eager)
    assert sum(1 in rows for rows in decoder.batches) == 1 + AHEAD
    for _ in range(AHEAD):
        next(idle)
    assert len(decoder.batches) == 1 + 3 * AHEAD, "all of these were made before"
    next(idle)
    assert decoder.batches[-1] == [1, 2]


def test_those_who_have_heard_nothing_go_first_and_a_batch_has_an_end() -> None:
    decoder = Decoder()
    stepper = Stepper(decoder, 0.5)
    far = time.monotonic() + 1000
    rich = [stepper.frames(utterance(decoder, number, due=far + number)) for number in range(5)]
    for one in rich:
        next(one)
    assert decoder.batches == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4]], "who has least goes first"
    new = stepper.frames(utterance(decoder, 7))
    next(new)
    assert decoder.batches[-1] == [7], "those who have enough to hear sit out"
    for _ in range(2 * AHEAD):
        next(rich[0])
    assert sum(rows == [7] for rows in decoder.batches) == 1 + AHEAD, "until it has enough not taken yet"
    assert decoder.batches[-1] != [7]


def test_a_step_that_fails_ends_those_in_it_and_nobody_else() -> None:
    def fail(rows: list[int]) -> None:
        if broken and 2 in rows:
            raise broken.pop()

    broken: list[Exception] = []
    decoder = Decoder(fail)
    stepper = Stepper(decoder, 0.5)
    for error, said in (
        (GraphError("graph step failed: no memory"), "^graph step failed: no memory$"),
        (MemoryError("4 GB"), "^a step of 2 utterances failed: MemoryError 4 GB$"),
    ):
        one, two = (stepper.frames(utterance(decoder, number)) for number in (1, 2))
        next(one)
        next(two)
        next(one)
        broken.append(error)
        for failed in (two, one):
            with pytest.raises(GraphError, match=said):
                list(failed)
        made = np.concatenate(list(stepper.frames(utterance(decoder, 3))), axis=1)
        np.testing.assert_allclose(made, alone(3), atol=1e-6)


def test_many_threads_at_once() -> None:
    """Nobody is forgotten, whoever of them takes the steps."""
    decoder = Decoder()
    stepper = Stepper(decoder, 0.5, at_once=2)

    def say(number: int) -> NDArray[np.float32]:
        return np.concatenate(list(stepper.frames(utterance(decoder, number))), axis=1)

    with ThreadPoolExecutor(12) as pool:
        said = list(pool.map(say, range(12), timeout=60))
    for number, made in enumerate(said):
        np.testing.assert_allclose(made, alone(number), atol=1e-6)
    assert not stepper._open
    assert all(not batch._rows for batch in stepper._idle), "nothing of them is held"


def test_batches_run_side_by_side_where_they_may() -> None:
    met = threading.Barrier(2)

    def meet(rows: list[int]) -> None:
        if rows not in decoder.batches[:-1]:
            met.wait(10)

    decoder = Decoder(meet)
    stepper = Stepper(decoder, 0.5, at_once=2)
    with ThreadPoolExecutor(2) as pool:
        going = [pool.submit(next, stepper.frames(utterance(decoder, number))) for number in (1, 2)]
        assert all(one.result(20).shape == (BINS, 2) for one in going)
    assert sorted(decoder.batches) == [[1], [2]]


class Hang:
    """A step that goes on until it is enough."""

    def __init__(self) -> None:
        self.begun, self.enough = threading.Event(), threading.Event()

    def __call__(self, rows: list[int]) -> None:
        self.begun.set()
        self.enough.wait(20)


def test_a_step_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    hang = Hang()
    decoder = Decoder(hang)
    stepper = Stepper(decoder, 0.5)
    monkeypatch.setattr(stepping, "WAIT_S", 0.05)
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(next, stepper.frames(utterance(decoder, 1)))
        assert hang.begun.wait(10)
        try:
            with pytest.raises(TimeoutError, match="made no frame within"):
                next(stepper.frames(utterance(decoder, 2)))
        finally:
            hang.enough.set()
        assert going.result(10).shape == (BINS, 2)


def test_who_is_not_wanted_any_more_leaves_while_others_step() -> None:
    hang = Hang()
    decoder = Decoder(hang)
    stepper = Stepper(decoder, 0.5)
    listener = Listening()
    with ThreadPoolExecutor(2) as pool:
        going = pool.submit(next, stepper.frames(utterance(decoder, 1)))
        assert hang.begun.wait(10)
        waits = pool.submit(list, stepper.frames(utterance(decoder, 2, listener=listener)))
        listener.wanted = False
        try:
            with pytest.raises(Gone):
                waits.result(10)
        finally:
            hang.enough.set()
        assert going.result(10).shape == (BINS, 2)
    assert decoder.batches == [[1]]
