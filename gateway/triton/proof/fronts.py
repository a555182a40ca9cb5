"""A whole exported model on Triton, through its contract, against what torch made of the same input."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from gateway.triton.channel import GRPCInferenceServiceStub
from gateway.triton.codec import text
from gateway.triton.errors import TritonError
from gateway.triton.exported.reference import load_arrays
from gateway.triton.infer import SequenceCall, stream_decoupled
from gateway.triton.models.asr.agreement import continued
from gateway.triton.proof.proved import Proved, failed
from gateway.triton.stream import Drains

SESSION = "a session on Triton"
CHUNKS = (320, 2_560, 7_680, 0)
"""Samples: the smallest, the default, three times that, and random ones (0)."""
LIMIT_DB = -60.0
ANSWER_S = 60.0
NO_TEXT = (
    "its reference has no text that could be spoken (a codec waits for an LLM; some languages have none)"
)
_RANDOM = (1, 6_000)


async def prove_front(folder: Path, channel: grpc.aio.Channel) -> Proved:
    """folder: of the front, whose model is loaded with its reference's seed."""
    try:
        told = await asyncio.to_thread(load_arrays, folder / "reference" / "front.npz")
    except (OSError, ValueError) as error:
        return failed(folder.name, SESSION, f"its reference cannot be read: {error}")
    prove = _recogniser if folder.name.startswith("asr_") else _voice
    drains = Drains(deadline_s=ANSWER_S)
    try:
        return await prove(folder.name, GRPCInferenceServiceStub(channel), told, drains)
    except TritonError as error:
        return failed(folder.name, SESSION, str(error))
    finally:
        await drains.close()


async def _recogniser(
    name: str, stub: GRPCInferenceServiceStub, told: dict[str, NDArray[Any]], drains: Drains
) -> Proved:
    """All utterances in all chunk sizes at once, so that starting and running ones share batches."""
    asked = [
        (told[f"audio_{number}"], str(told[f"text_{number}"]), size, str(told.get(f"language_{number}", "")))
        for number in _numbers(told, "text_")
        for size in CHUNKS
    ]
    if not asked:
        return failed(name, SESSION, "its reference holds no utterance: export the model again")
    heard = await asyncio.gather(
        *(_recognise(name, stub, drains, audio, size, language) for audio, _, size, language in asked)
    )
    wrong = [
        f'"{got}" and not "{wanted}" ({len(audio) / 16_000:.1f} s in chunks of {size or "random size"})'
        for (audio, wanted, size, _), (got, promised) in zip(asked, heard, strict=True)
        if got.split() != kept(promised.split(), wanted.split())
    ]
    note = wrong[0] if wrong else "transcripts equal torch's, whatever the chunks"
    return Proved(name, SESSION, len(asked), len(wrong), 0, "wrong", not wrong, note)


async def _recognise(
    name: str,
    stub: GRPCInferenceServiceStub,
    drains: Drains,
    audio: NDArray[np.float32],
    size: int,
    language: str,
) -> tuple[str, str]:
    """What was heard in the end, and what of it was told to be stable before."""
    call = SequenceCall(stub, name, drains=drains, decoupled=True)
    chunks = list(_cut(audio, size))
    heard = promised = ""
    try:
        for number, chunk in enumerate(chunks):
            last = number + 1 == len(chunks)
            answer = await call.infer(
                chunk,
                start=number == 0,
                end=last,
                language=language,
                deadline_s=ANSWER_S,
            )
            heard = str(answer["TRANSCRIPT"][0])
            if not last:
                promised = heard[: int(answer["STABLE"][0])]
    finally:
        call.give_up()
    return heard, promised


def kept(promised: list[str], wanted: list[str]) -> list[str]:
    """What an utterance ends with: a word that was told to be stable stays, also one of which more audio made
    another."""
    return promised + wanted[continued(promised, wanted) :]


def _cut(audio: NDArray[np.float32], size: int) -> Iterator[NDArray[np.float32]]:
    rng = np.random.default_rng(len(audio))
    at = 0
    while at < len(audio):
        step = size or int(rng.integers(*_RANDOM))
        yield np.ascontiguousarray(audio[at : at + step], np.float32)
        at += step


async def _voice(
    name: str, stub: GRPCInferenceServiceStub, told: dict[str, NDArray[Any]], drains: Drains
) -> Proved:
    """All texts at once: each one's audio, chunk after chunk, against torch's in one piece."""
    numbers = list(_numbers(told, "text_"))
    if not numbers:
        return Proved(name, SESSION, 0, 0, 0, note=f"loaded; {NO_TEXT}")
    spoken = await asyncio.gather(*(_speak(name, stub, drains, told, number) for number in numbers))
    apart = [
        decibels(told[f"audio_{number}"].reshape(-1), got)
        for number, got in zip(numbers, spoken, strict=True)
    ]
    worst = max(apart, default=float("inf"))
    note = "streamed against torch in one piece"
    return Proved(name, SESSION, len(numbers), worst, LIMIT_DB, "dB", worst <= LIMIT_DB, note)


async def _speak(
    name: str, stub: GRPCInferenceServiceStub, drains: Drains, told: dict[str, NDArray[Any]], number: str
) -> NDArray[np.float32]:
    inputs = {"TEXT": text(str(told[f"text_{number}"]))}
    if f"voice_{number}" in told:
        inputs["VOICE"] = text(str(told[f"voice_{number}"]))
    if f"speed_{number}" in told:
        inputs["SPEED"] = told[f"speed_{number}"].astype(np.float32).reshape(1)
    answers = stream_decoupled(
        stub, name, inputs, drains=drains, first_deadline_s=ANSWER_S, next_deadline_s=ANSWER_S
    )
    chunks = [answer["AUDIO"] async for answer in answers]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)


def decibels(wanted: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    """How far what was heard is from what torch made, relative to that, in dB: level aside, which each voice
    sets for itself, and silence at the start aside, which is cut off."""
    cut = len(wanted) - len(got)
    if cut < 0 or not len(got) or not np.isfinite(got).all():
        return float("inf")
    kept = wanted[cut:].astype(np.float64)
    power = float(np.dot(kept, kept))
    if not power:
        return float("inf")
    # Before the cut there is only what counts as silence.
    if cut and np.abs(wanted[:cut]).max() > 0.05 * np.abs(wanted).max():
        return float("inf")
    gain = float(np.dot(kept, got)) / power
    apart = got - gain * kept
    if not gain:
        return float("inf")
    return 10 * float(np.log10(max(np.dot(apart, apart) / (gain * gain * power), 1e-20)))


def _numbers(told: dict[str, NDArray[Any]], prefix: str) -> Iterator[str]:
    return (name.removeprefix(prefix) for name in sorted(told) if name.startswith(prefix))
