"""Which chunks share a batch of a recogniser, and what becomes of those that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from gateway.triton.models.asr.batching import BatchWorkers, Utterance
from gateway.triton.models.asr.engine import END, EngineError, Heard, Job, Word

NOTHING = np.zeros(0, np.float32).tobytes()
DEAF = "d"


class Gated:
    """A recogniser of batches of two, which waits at a gate before each."""

    max_batch = 2
    at_once = 4

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.at_work = threading.Event()
        self.batches: list[list[str]] = []
        self.heard: list[tuple[str, int, bool]] = []
        """Whose, how much, and whether it was the last."""
        self._names = iter("abcdefgh")

    def begin(self, language: str = "") -> str:
        return next(self._names)

    def step(self, jobs: Sequence[Job[str]]) -> list[Heard | Exception]:
        self.at_work.set()
        self.gate.wait(5)
        self.batches.append([job.utterance for job in jobs])
        self.heard += [(job.utterance, len(job.audio), job.last) for job in jobs]
        return [
            ValueError("it is deaf") if job.utterance == DEAF else Heard([Word(job.utterance, 0, 1)], 1)
            for job in jobs
        ]


class Crowd:
    """Utterances a, b, c and d, of which a is at work, alone."""

    def __init__(self, ear: Gated, workers: BatchWorkers, names: dict[str, Utterance]) -> None:
        self.ear, self.workers = ear, workers
        self.names = names
        self.first = self.ask("a")

    def ask(
        self, name: str, flags: int = 0, deadline_s: float = 5, audio: bytes = NOTHING
    ) -> asyncio.Task[dict[str, object]]:
        return asyncio.create_task(self.names[name].ask(flags, audio, deadline_s))


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    ear = Gated()
    workers = BatchWorkers(ear, 4)
    await workers.start()
    found = Crowd(ear, workers, {name: await workers.acquire("") for name in "abcd"})
    await asyncio.to_thread(ear.at_work.wait, 5)
    yield found
    ear.gate.set()
    await workers.close()


async def test_who_comes_meanwhile_shares_the_next_batch(crowd: Crowd) -> None:
    later = [crowd.ask(name) for name in "bc"]
    await asyncio.sleep(0)
    crowd.ear.gate.set()
    answers = await asyncio.gather(crowd.first, *later)
    assert crowd.ear.batches == [["a"], ["b", "c"]]
    assert [answer["words"] for answer in answers] == [[[name, 0, 1]] for name in "abc"]


async def test_an_utterance_that_ends_goes_before_those_that_go_on(crowd: Crowd) -> None:
    later = [crowd.ask("b"), crowd.ask("c")]
    await asyncio.sleep(0)
    ending = crowd.ask("d", END)
    await asyncio.sleep(0)
    crowd.ear.gate.set()
    with pytest.raises(EngineError, match="it is deaf"):  # it alone fails
        await ending
    await asyncio.gather(crowd.first, *later)
    assert crowd.ear.batches == [["a"], ["d", "b"], ["c"]]


async def test_much_audio_at_once_holds_up_nobody(crowd: Crowd) -> None:
    long = crowd.ask("b", END, audio=np.zeros(10, np.float32).tobytes())
    await asyncio.sleep(0)
    others = [crowd.ask("c"), crowd.ask("c"), crowd.ask("c")]
    await asyncio.sleep(0)
    crowd.ear.gate.set()
    await asyncio.gather(crowd.first, long, *others)
    assert [one for one in crowd.ear.heard if one[0] == "b"] == [
        ("b", 4, False),
        ("b", 4, False),
        ("b", 2, True),
    ]
    assert crowd.ear.batches[1] == ["b", "c"]
    assert crowd.ear.batches[2][0] == "c", "who waited longer"


async def test_who_gave_up_is_not_worked_for(crowd: Crowd) -> None:
    given_up, patient = crowd.ask("b"), crowd.ask("c")
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait([given_up])
    crowd.ear.gate.set()
    await asyncio.gather(crowd.first, patient)
    assert crowd.ear.batches == [["a"], ["c"]]


async def test_no_answer_in_time_is_said(crowd: Crowd) -> None:
    with pytest.raises(EngineError, match="no answer within"):
        await crowd.ask("b", deadline_s=0)


async def test_one_more_than_fit_is_refused(crowd: Crowd) -> None:
    with pytest.raises(EngineError, match="4 utterances are open already"):
        await crowd.workers.acquire("")
    crowd.workers.release(crowd.names["d"])
    await crowd.workers.acquire("")
