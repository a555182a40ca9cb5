"""A loaded recogniser against its contract: START, partials, END, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.catalogue.contract import ASR_OUTPUTS, ASR_RATE
from gateway.triton.catalogue.findings import Finding, error, ok, warning
from gateway.triton.channel import GRPCInferenceServiceStub
from gateway.triton.codec import Array
from gateway.triton.errors import SequenceLost, TritonError, TritonUnavailable
from gateway.triton.infer import SequenceCall
from gateway.triton.model_info import ModelInfo
from gateway.triton.stream import Drains

CHUNK = 2_560
"""Samples; 160 ms."""
NOWHERE = "tlh-KX"
"""A language that no recogniser speaks."""
_KINDS = {"STRING": "O", "INT32": "i", "BOOL": "b", "FP32": "f"}
_QUIET = np.zeros(CHUNK, np.float32)
_NOTHING = np.zeros(0, np.float32)
_SLACK_MS = 50


@dataclass(slots=True)
class _Asked:
    stub: GRPCInferenceServiceStub
    info: ModelInfo
    drains: Drains
    answer_s: float

    def call(self) -> SequenceCall:
        return SequenceCall(
            self.stub,
            self.info.name,
            drains=self.drains,
            decoupled=self.info.decoupled,
            batched=self.info.max_batch_size > 0,
        )

    async def recognise(self, chunks: Sequence[NDArray[np.float32]], **start: Any) -> list[dict[str, Array]]:
        call = self.call()
        last = len(chunks) - 1
        try:
            return [
                await call.infer(
                    chunk,
                    start=at == 0,
                    end=at == last,
                    deadline_s=self.answer_s,
                    **(start if at == 0 else {}),
                )
                for at, chunk in enumerate(chunks)
            ]
        finally:
            call.give_up()


async def verify_asr(
    stub: GRPCInferenceServiceStub, info: ModelInfo, drains: Drains, answer_s: float
) -> list[Finding]:
    """Raises: TritonError where the model answers nothing at all."""
    asked = _Asked(stub, info, drains, answer_s)
    found: list[Finding] = []
    answers = await asked.recognise(_speech())
    found += _shapes(answers)
    if not found:
        found = _meaning(answers) or [
            ok(
                f"{len(answers)} chunks had {len(answers)} answers, each with its types; END made the last final"
            )
        ]
    found.append(await _silence(asked))
    found.append(await _lost(asked))
    found.append(await _again(asked))
    found += await _languages(asked)
    return found


def _shapes(answers: Sequence[dict[str, Array]]) -> list[Finding]:
    for number, answer in enumerate(answers, 1):
        for name, tensor in ASR_OUTPUTS.items():
            got = answer.get(name)
            if got is None:
                return [error(f"the answer to chunk {number} has no {name}")]
            if got.dtype.kind != _KINDS[tensor.datatype]:
                return [error(f"{name} came as {got.dtype}, and must be {tensor.datatype}")]
            fits = len(got.shape) == len(tensor.dims) and all(
                wanted in (-1, size) for size, wanted in zip(got.shape, tensor.dims, strict=True)
            )
            if not fits:
                return [error(f"{name} came with shape {list(got.shape)}, and must have {list(tensor.dims)}")]
    return []


def _meaning(answers: Sequence[dict[str, Array]]) -> list[Finding]:
    found = []
    promise = ""
    heard_ms = 0
    for number, answer in enumerate(answers, 1):
        said, stable = str(answer["TRANSCRIPT"][0]), int(answer["STABLE"][0])
        words, times = [str(word) for word in answer["WORDS"]], answer["WORD_TIMES"]
        last = number == len(answers)
        heard_ms += CHUNK * 1000 // ASR_RATE
        if not 0 <= stable <= len(said):
            found.append(
                error(f"chunk {number}: STABLE is {stable}, and TRANSCRIPT has {len(said)} characters")
            )
        if not said.startswith(promise):
            found.append(error(f'chunk {number}: "{promise}" was stable, and then changed to "{said}"'))
        if bool(answer["IS_FINAL"][0]) is not last:
            found.append(
                error("END did not make it final" if last else f"chunk {number} is final without END")
            )
        if last and stable != len(said):
            found.append(error(f"the final answer has {len(said)} characters, of which {stable} are stable"))
        if len(words) != len(times):
            found.append(error(f"chunk {number}: {len(words)} WORDS and {len(times)} WORD_TIMES"))
        edges = [int(edge) for edge in times.ravel()]
        if edges != sorted(edges) or (edges and (edges[0] < 0 or edges[-1] > heard_ms + _SLACK_MS)):
            found.append(error(f"chunk {number}: WORD_TIMES {edges} are not in order within {heard_ms} ms"))
        promise = said[: max(0, stable)]
        if found:
            return found
    return found


async def _silence(asked: _Asked) -> Finding:
    try:
        answers = await asked.recognise([_NOTHING])
    except TritonError as failure:
        return error(f"an utterance without audio fails: {failure}")
    if not bool(answers[0]["IS_FINAL"][0]):
        return error("an utterance without audio did not end")
    return ok("an utterance without audio ends at once")


async def _lost(asked: _Asked) -> Finding:
    call = asked.call()
    try:
        await call.infer(_QUIET, deadline_s=asked.answer_s)
    except SequenceLost:
        return ok("a chunk of an unknown utterance is refused: START is needed")
    except TritonUnavailable as silent:
        return error(f"a chunk without START is not refused: {silent}")
    except TritonError as other:
        return error(f'a chunk without START is refused, but not with "must specify the START flag": {other}')
    finally:
        call.give_up()
    return error("a chunk without START is taken: sequence_batching is not in force")


async def _again(asked: _Asked) -> Finding:
    call = asked.call()
    try:
        await call.infer(_QUIET, start=True, deadline_s=asked.answer_s)
        await call.infer(_QUIET, start=True, deadline_s=asked.answer_s)
        answer = await call.infer(_NOTHING, end=True, deadline_s=asked.answer_s)
    except TritonError as failure:
        return error(f"START in the middle of an utterance fails: {failure}")
    finally:
        call.give_up()
    if not bool(answer["IS_FINAL"][0]):
        return error("after a second START, END did not make the answer final")
    return ok("START in the middle of an utterance begins anew")


async def _languages(asked: _Asked) -> list[Finding]:
    info = asked.info
    if "LANGUAGE" not in info.inputs:
        return [warning("it has no input LANGUAGE: every caller gets the same language")]
    found = []
    hints = {"hints": ("parley", "triton")} if "HINTS" in info.inputs else {}
    for language in info.languages:
        try:
            await asked.recognise([_QUIET], language=language, **hints)
        except TritonError as failure:
            found.append(error(f"it lists {language}, and refuses it: {failure}"))
    try:
        await asked.recognise([_QUIET], language=NOWHERE)
        found.append(warning(f"LANGUAGE {NOWHERE} is taken: an unknown language should be refused by name"))
    except TritonUnavailable as silent:
        found.append(error(f"LANGUAGE {NOWHERE} is not refused: {silent}"))
    except TritonError:
        pass
    return found or [ok("its own languages are taken, others refused")]


def _speech() -> list[NDArray[np.float32]]:
    """Two seconds of something voiced: harmonics that rise and fall, with a pause; no words in it."""
    at = np.arange(2 * ASR_RATE) / ASR_RATE
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 1.5 * at)) / ASR_RATE
    voiced = sum(np.sin(pitch * n) / n for n in range(1, 12))
    loud = np.clip(np.sin(2 * np.pi * 2 * at), 0, 1) * (at < 1.4)
    audio = (voiced * loud * 0.15).astype(np.float32)
    return [audio[start : start + CHUNK] for start in range(0, len(audio), CHUNK)]
