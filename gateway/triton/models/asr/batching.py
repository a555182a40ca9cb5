"""Chunks of many utterances become batches of one recogniser, in a thread of its own.

Whoever comes while a batch is at work shares the next one. Which utterances come first when there are more
than fit is decided before (turns.py): so many are let in as two batches take.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Any

import numpy as np

from gateway.triton.models.asr.engine import END, AnyRecogniser, EngineError, Heard, Job, Samples
from gateway.triton.models.graphs import GraphError

STOP_S = 5.0


class BatchWorkers:
    """`Workers` of a recogniser that batches; a worker is an utterance's state."""

    spare = 0

    def __init__(self, recogniser: AnyRecogniser, max_streams: int) -> None:
        self.places = 2 * recogniser.max_batch
        self._recogniser = recogniser
        self._max_streams = max_streams
        self._open: set[Utterance] = set()
        self._waiting: deque[tuple[Job[Any], asyncio.Future[Heard]]] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def acquire(self, language: str = "") -> Utterance:
        if len(self._open) >= self._max_streams:
            raise EngineError(f"{self._max_streams} utterances are open already; try again")
        utterance = Utterance(self, self._recogniser.begin(language))
        self._open.add(utterance)
        return utterance

    def release(self, worker: Utterance) -> None:
        self._open.discard(worker)

    discard = release

    async def close(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join, STOP_S)

    async def hear(self, state: Any, audio: Samples, last: bool) -> Heard:
        """Audio of any length; others share the recogniser in the midst of what is long.

        Raises: what the recogniser raised for this utterance."""
        size = self._recogniser.at_once or len(audio)
        while len(audio) > size:
            await self.run(Job(state, audio[:size], False))
            audio = audio[size:]
        return await self.run(Job(state, audio, last))

    async def run(self, job: Job[Any]) -> Heard:
        """Raises: what the recogniser raised for this utterance."""
        done: asyncio.Future[Heard] = self._loop.create_future()
        with self._changed:
            self._waiting.append((job, done))
            self._changed.notify()
        return await done

    def _take(self) -> list[tuple[Job[Any], asyncio.Future[Heard]]]:
        """A batch of those that wait: utterances that end first, then in the order in which they came."""
        by_need = sorted(self._waiting, key=lambda one: not one[0].last)
        size = self._recogniser.max_batch
        self._waiting = deque(by_need[size:])
        return by_need[:size]

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return
                batch = self._take()
            # Whoever gave up meanwhile is not worked for.
            batch = [(job, done) for job, done in batch if not done.cancelled()]
            if not batch:
                continue
            try:
                results: list[Heard | Exception] = self._recogniser.step([job for job, _ in batch])
            except Exception as error:
                results = [error] * len(batch)
            self._loop.call_soon_threadsafe(_settle, [done for _, done in batch], results)


class Utterance:
    """`Worker` of one utterance."""

    def __init__(self, workers: BatchWorkers, state: Any) -> None:
        self._workers = workers
        self._state = state

    async def ask(self, flags: int, audio: bytes, deadline_s: float) -> dict[str, Any]:
        last = bool(flags & END)
        try:
            async with asyncio.timeout(deadline_s):
                heard = await self._workers.hear(self._state, np.frombuffer(audio, np.float32), last)
        except TimeoutError:
            raise EngineError(
                f"no answer within {deadline_s:.0f} s: more utterances than it can bear"
            ) from None
        except EngineError:
            raise
        except GraphError as error:  # a sentence as it is
            raise EngineError(str(error)) from None
        except Exception as error:
            raise EngineError(f"{type(error).__name__}: {error}") from None
        return {"words": [list(word) for word in heard.words], "stable": heard.stable, "final": last}


def _settle(waiting: list[asyncio.Future[Heard]], results: list[Heard | Exception]) -> None:
    for done, result in zip(waiting, results, strict=True):
        if done.done():
            continue
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)
