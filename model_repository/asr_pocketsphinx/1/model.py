"""The recogniser's contract with Triton: chunks of a sequence in, a growing transcript out."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import triton_python_backend_utils as pb

sys.dont_write_bytecode = True  # a new file in the version folder would make Triton load the model again

try:
    from gateway.triton.models.process import LoopThread, exit_with_parent, parameter
except ImportError as error:
    raise ImportError(
        "asr_pocketsphinx needs Parley in the Python environment of Triton's Python backend: "
        "pip install 'parley[embedded]'"
    ) from error
from pool import LOAD_S, RESTART, Pool, PoolError, Worker  # noqa: E402

START, END = 1, 2
RATE = 16_000
MAX_WAITING = 32
"""Chunks of one utterance not yet taken up; one in flight is the rule."""
IDLE_MARGIN_S = 1.0
"""After Triton's own idle limit: then no chunk of the sequence can come any more."""


class Refused(Exception):
    """A request that cannot be served. `str()` is fit for the client."""


class Chunk:
    """What is needed of a request after Triton took its tensors back."""

    def __init__(self, request: Any) -> None:
        self.reply = request.get_response_sender()
        self.flags = request.flags() & (START | END)
        self.sequence = request.correlation_id()
        self.outputs = set(request.requested_output_names())
        tensor = pb.get_input_tensor_by_name(request, "AUDIO")
        self.audio = tensor.as_numpy().reshape(-1).astype("<f4", copy=False).tobytes()
        self.language = _text(request, "LANGUAGE") if self.flags & START else ""

    @property
    def seconds(self) -> float:
        return len(self.audio) / 4 / RATE

    def answer(self, reply: dict[str, Any]) -> None:
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
        self._send(pb.InferenceResponse(output_tensors=tensors))

    def fail(self, message: str, code: int | None = None) -> None:
        error = pb.TritonError(message, pb.TritonError.INVALID_ARG if code is None else code)
        self._send(pb.InferenceResponse(output_tensors=[], error=error))

    def _send(self, response: Any) -> None:
        self.reply.send(response, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class TritonPythonModel:
    """Every method but `initialize`, `execute` and `finalize` runs on the loop thread."""

    def initialize(self, args: dict[str, str]) -> None:
        exit_with_parent()
        config = json.loads(args["model_config"])
        batching = config["sequence_batching"]
        self._idle_s = int(batching["max_sequence_idle_microseconds"]) / 1e6 + IDLE_MARGIN_S
        self._languages = {
            tag.strip().split("-")[0].lower() for tag in parameter(config, "languages").split(",")
        }
        self._max_s = float(parameter(config, "max_utterance_s", "600"))
        ready = int(parameter(config, "workers", "0")) or len(os.sched_getaffinity(0))
        self._pool = Pool(max(1, ready), max(1, int(parameter(config, "max_streams", "64"))))
        self._utterances: dict[int | str, tuple[asyncio.Queue[Chunk], asyncio.Task[None]]] = {}
        self._thread = LoopThread("asr")
        try:
            self._thread.run(self._pool.start(), LOAD_S * 2)
        except (PoolError, TimeoutError) as error:
            raise RuntimeError(
                f"asr_pocketsphinx cannot load its engine: {error}. "
                "Install it for Triton's Python backend: pip install 'parley[embedded]'"
            ) from None

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
        heard_s = 0.0
        chunk: Chunk | None = None
        try:
            while not ended:
                async with asyncio.timeout(self._idle_s):
                    chunk = await chunks.get()
                heard_s += chunk.seconds
                if chunk.flags & START:
                    self._check_language(chunk.language)
                if heard_s > self._max_s:
                    raise Refused(
                        f"the utterance is longer than {self._max_s:.0f} s: END it and START another"
                    )
                if worker is None:
                    worker = await self._pool.acquire()
                reply = await worker.ask(chunk.flags, chunk.audio, 10.0 + 2 * heard_s)
                ended = bool(reply["final"])
                chunk.answer(reply)
                chunk = None
        except TimeoutError:
            pb.Logger.log_verbose(f"asr_pocketsphinx: sequence {sequence} was left open; dropped")
        except Refused as error:
            if chunk is not None:
                chunk.fail(str(error))
        except PoolError as error:
            pb.Logger.log_warn(f"asr_pocketsphinx: {error}")
            if chunk is not None:
                chunk.fail(str(error), pb.TritonError.UNAVAILABLE)
        except asyncio.CancelledError:
            if chunk is not None:
                chunk.fail(f"the utterance was started again; {RESTART}")
            raise
        finally:
            held = self._utterances.get(sequence)
            if held is not None and held[0] is chunks:
                del self._utterances[sequence]
            if worker is not None:
                (self._pool.release if ended else self._pool.discard)(worker)
            _refuse_all(chunks, f"this utterance is over; {RESTART}")

    def _check_language(self, language: str) -> None:
        if language and language.replace("_", "-").split("-")[0].lower() not in self._languages:
            known = ", ".join(sorted(self._languages))
            raise Refused(f"language {language} is not available; asr_pocketsphinx understands: {known}")

    async def _close(self) -> None:
        tasks = [task for _, task in self._utterances.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pool.close()


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
