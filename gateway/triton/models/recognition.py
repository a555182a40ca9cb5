"""A recogniser on Triton: the contract of an `asr_*` model around any engine with one worker an utterance.

`execute` only enqueues. One loop thread keeps the utterances; of the workers, as many work at a time as
there are places, those first whose audio is due first: live ones before those that are sent faster than
they were spoken (turns.py). An utterance whose client fell silent is dropped here: Triton frees its own
slot then and tells the model nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
import triton_python_backend_utils as pb

from gateway.triton.models.asr.engine import END, START, EngineError
from gateway.triton.models.audio import at_full_scale
from gateway.triton.models.process import LoopThread, exit_with_parent, parameter
from gateway.triton.models.turns import Turn, Turns
from gateway.triton.models.voices import Refused

RATE = 16_000
MAX_WAITING = 32
"""Chunks of one utterance not yet taken up; one in flight is the rule."""
IDLE_MARGIN_S = 1.0
"""After Triton's own idle limit: then no chunk of the sequence can come any more."""
PATIENCE_S = 1.0
"""Audio that is early waits at most this much longer than audio that is due now."""
RESTART = "must specify the START flag on the first request of the sequence"
"""Triton's own words for an unknown sequence; clients know them, start again and replay."""
W = TypeVar("W")


class Worker(Protocol):
    """One utterance at a time."""

    async def ask(self, flags: int, audio: bytes, deadline_s: float) -> dict[str, Any]:
        """One chunk (float32 at 16 kHz; flags START, END). {"words": [[text, start ms, end ms]], "stable": words that
        will not change, "final"}. Raises: EngineError, after which the worker must be discarded."""
        ...


class Workers(Protocol[W]):
    places: int
    """How many may work at the same time."""
    spare: int
    """How many more, for audio that is due now while all others are at work on audio that is early."""

    async def start(self) -> None: ...

    async def acquire(self, language: str) -> W:
        """A worker of one's own, to be given to `release` or `discard`. language: as START said it, or "".

        Raises: EngineError."""
        ...

    def release(self, worker: W) -> None:
        """After an utterance that ended well."""
        ...

    def discard(self, worker: W) -> None:
        """After an utterance that was left open or failed."""
        ...

    async def close(self) -> None: ...


class Chunk:
    """What is needed of a request after Triton took its tensors back."""

    def __init__(self, request: Any) -> None:
        self.reply = request.get_response_sender()
        self.flags = request.flags() & (START | END)
        self.sequence = request.correlation_id()
        self.outputs = set(request.requested_output_names())
        tensor = pb.get_input_tensor_by_name(request, "AUDIO")
        samples = tensor.as_numpy().reshape(-1)
        self.is_sound = bool(np.isfinite(samples).all())
        self.audio = at_full_scale(samples).astype("<f4", copy=False).tobytes() if self.is_sound else b""
        self.language = _text(request, "LANGUAGE") if self.flags & START else ""

    @property
    def seconds(self) -> float:
        return len(self.audio) / 4 / RATE

    def answer(self, reply: dict[str, Any], beside: Mapping[str, np.ndarray[Any, Any]]) -> None:
        words = reply["words"]
        texts = [word[0] for word in words]
        stable = len(" ".join(texts[: reply["stable"]]))
        made: dict[str, Callable[[], Any]] = {
            "TRANSCRIPT": lambda: _strings([" ".join(texts)]),
            "STABLE": lambda: np.array([[stable]], dtype=np.int32),
            "IS_FINAL": lambda: np.array([[reply["final"]]], dtype=np.bool_),
            "WORDS": lambda: _strings(texts),
            "WORD_TIMES": lambda: np.array([word[1:] for word in words], dtype=np.int32).reshape(1, -1, 2),
        }
        tensors = [pb.Tensor(name, make()) for name, make in made.items() if name in self.outputs]
        tensors += [pb.Tensor(name, value) for name, value in beside.items() if name in self.outputs]
        self._send(pb.InferenceResponse(output_tensors=tensors))

    def fail(self, message: str, code: int | None = None) -> None:
        error = pb.TritonError(message, pb.TritonError.INVALID_ARG if code is None else code)
        self._send(pb.InferenceResponse(output_tensors=[], error=error))

    def _send(self, response: Any) -> None:
        self.reply.send(response, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class RecogniserModel:
    """`initialize`, `execute` and `finalize` of a recogniser. Every other method runs on the loop thread."""

    def __init__(
        self,
        args: dict[str, str],
        load: Callable[[Mapping[str, Any]], Workers[Any]],
        *,
        load_s: float,
        beside: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> None:
        """load: the workers, from the model's config; they may take load_s to start. beside: outputs [1, …] that go
        with every answer. Raises: EngineError with the engine's reason, TimeoutError."""
        exit_with_parent()
        config = json.loads(args["model_config"])
        batching = config["sequence_batching"]
        self._name = str(config["name"])
        self._idle_s = int(batching["max_sequence_idle_microseconds"]) / 1e6 + IDLE_MARGIN_S
        self._languages = {
            tag.strip().split("-")[0].lower() for tag in parameter(config, "languages").split(",")
        }
        self._max_s = float(parameter(config, "max_utterance_s", "600"))
        self._workers = load(config)
        self._turns = Turns(self._workers.places, self._workers.spare)
        self._beside = dict(beside or {})
        self._utterances: dict[int | str, tuple[asyncio.Queue[Chunk], asyncio.Task[None]]] = {}
        self._counters = Counters(self._name)
        self._thread = LoopThread("asr")
        try:
            self._thread.run(self._workers.start(), load_s)
        except BaseException:
            self._thread.stop()
            raise

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            self._thread.post(self._take, Chunk(request))

    def finalize(self) -> None:
        self._thread.run(self._close(), 5.0)
        self._thread.stop()

    def _take(self, chunk: Chunk) -> None:
        if chunk.flags & START:
            self._abandon(chunk.sequence)
            chunks: asyncio.Queue[Chunk] = asyncio.Queue(MAX_WAITING)
            task = asyncio.get_running_loop().create_task(self._recognize(chunk.sequence, chunks))
            self._utterances[chunk.sequence] = (chunks, task)
            self._counters.open(len(self._utterances))
        held = self._utterances.get(chunk.sequence)
        if held is None:
            chunk.fail(f"this utterance ended, failed or was idle too long; {RESTART}")
            return
        try:
            held[0].put_nowait(chunk)
        except asyncio.QueueFull:
            chunk.fail(
                f"more than {MAX_WAITING} chunks of this utterance are waiting: "
                "send a chunk after the answer to the one before",
                pb.TritonError.UNAVAILABLE,
            )

    def _abandon(self, sequence: int | str) -> None:
        """A START for a sequence that is open begins it anew; chunks that still wait are refused."""
        held = self._utterances.pop(sequence, None)
        if held is not None:
            held[1].cancel()
            _refuse_all(held[0], f"the utterance was started again; {RESTART}")

    async def _recognize(self, sequence: int | str, chunks: asyncio.Queue[Chunk]) -> None:
        """One utterance, from START to END, failure, restart or silence of its client."""
        worker: Worker | None = None
        ended = False
        language = ""
        began, heard_s = time.monotonic(), 0.0
        chunk: Chunk | None = None
        try:
            while not ended:
                async with asyncio.timeout(self._idle_s):
                    chunk = await chunks.get()
                due = min(began + heard_s, time.monotonic() + PATIENCE_S)
                heard_s += chunk.seconds
                if chunk.flags & START:
                    language = chunk.language
                    self._check_language(language)
                if not chunk.is_sound:
                    raise Refused(
                        "the audio holds values that are no finite numbers: START again without them"
                    )
                if heard_s > self._max_s:
                    raise Refused(
                        f"the utterance is longer than {self._max_s:.0f} s: END it and START another"
                    )
                if worker is None:
                    worker = await self._workers.acquire(language)
                reply = await self._ask(worker, chunk, due, 10.0 + 2 * heard_s)
                ended = bool(reply["final"])
                chunk.answer(reply, self._beside)
                chunk = None
        except TimeoutError:
            self._counters.abandoned()
            pb.Logger.log_verbose(f"{self._name}: sequence {sequence} was left open; dropped")
        except Refused as error:
            if chunk is not None:
                chunk.fail(str(error))
        except EngineError as error:
            pb.Logger.log_warn(f"{self._name}: {error}")
            if chunk is not None:
                chunk.fail(str(error), pb.TritonError.UNAVAILABLE)
        except Exception as error:  # without an answer its client would wait in silence
            pb.Logger.log_warn(f"{self._name}: {type(error).__name__}: {error}")
            if chunk is not None:
                chunk.fail(f"{type(error).__name__}: {error}", pb.TritonError.INTERNAL)
        except asyncio.CancelledError:
            if chunk is not None:
                chunk.fail(f"the utterance was started again; {RESTART}")
            raise
        finally:
            held = self._utterances.get(sequence)
            if held is not None and held[0] is chunks:
                del self._utterances[sequence]
            if worker is not None:
                (self._workers.release if ended else self._workers.discard)(worker)
            _refuse_all(chunks, f"this utterance is over; {RESTART}")
            self._counters.open(len(self._utterances))

    async def _ask(self, worker: Worker, chunk: Chunk, due: float, deadline_s: float) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        mine = loop.create_future()
        turn = Turn(lambda: loop.call_soon_threadsafe(_settle, mine))
        try:
            if not self._turns.ask(turn, due):
                await mine
            return await worker.ask(chunk.flags, chunk.audio, deadline_s)
        finally:
            self._turns.call_off(turn)
            self._turns.leave(turn)

    def _check_language(self, language: str) -> None:
        if language and language.replace("_", "-").split("-")[0].lower() not in self._languages:
            known = ", ".join(sorted(self._languages))
            raise Refused(f"language {language} is not available; {self._name} understands: {known}")

    async def _close(self) -> None:
        tasks = [task for _, task in self._utterances.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._workers.close()


class Counters:
    """What the model counts for itself, on Triton's metrics page. Each count is a round trip to the server."""

    def __init__(self, model: str) -> None:
        kinds, labels = pb.MetricFamily, {"model": model}
        self._families = [  # a family must outlive its metrics
            kinds(name="parley_asr_open", description="Utterances held", kind=kinds.GAUGE),
            kinds(name="parley_asr_abandoned_total", description="Utterances whose client fell silent",
                  kind=kinds.COUNTER),
        ]  # fmt: skip
        self._open, self._abandoned = (family.Metric(labels=labels) for family in self._families)

    def open(self, count: int) -> None:
        self._open.set(count)

    def abandoned(self) -> None:
        self._abandoned.increment(1)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _refuse_all(chunks: asyncio.Queue[Chunk], message: str) -> None:
    while not chunks.empty():
        chunks.get_nowait().fail(message)


def _strings(values: list[str]) -> Any:
    return np.array([value.encode() for value in values], dtype=np.object_).reshape(1, -1)


def _text(request: Any, name: str) -> str:
    tensor = pb.get_input_tensor_by_name(request, name)
    if tensor is None:
        return ""
    values = tensor.as_numpy().reshape(-1)
    return values[0].decode(errors="replace").strip() if len(values) else ""
