"""The emulated voice: what it says, and how it stops."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from itertools import pairwise

import numpy as np
import pytest

from gateway.triton.channel import GRPCInferenceServiceStub, open_channel
from gateway.triton.codec import request, text
from gateway.triton.errors import ModelNotLoaded, TritonError
from gateway.triton.repository import Repository
from load.emulators import Profile, assignments, read_profile
from load.emulators.profile import TtsProfile
from load.emulators.triton_wire import Chunks
from load.emulators.voice import babble, cut
from tests.unit.load.emulators.parts import Rig, rig

LONG = "The old harbour lies quiet in the morning. " * 10


def voice(*figures: str) -> Profile:
    return read_profile("zero").changed(assignments(["tts.rtf=0.1", *figures]))


async def interrupted(parts: Rig) -> None:
    """A synthesis that is given up after its first chunk."""
    async with aclosing(parts.tts.synthesize(LONG)) as chunks:
        await anext(chunks)
    await parts.is_idle()


async def test_a_cancel_that_is_heeded_at_once_leaves_no_chunk_behind() -> None:
    async with rig(voice()) as parts:
        await interrupted(parts)
        tts = (await parts.stats())["tts"]
        assert (tts["cancelled"], tts["vanished"], tts["chunks_after_cancel"]) == (1, 0, 0)
        assert tts["chunks"] < 20


async def test_a_model_that_looks_late_is_counted() -> None:
    async with rig(voice("tts.cancel_ms=60")) as parts:
        await interrupted(parts)
        tts = (await parts.stats())["tts"]
        assert tts["cancelled"] == 1
        assert 3 <= tts["chunks_after_cancel"] <= 12, "8 ms of work a chunk"
        page = await parts.page()
    assert (
        f'parley_tts_chunks_after_cancel_total{{model="tts_emulated"}} {tts["chunks_after_cancel"]}' in page
    )


async def test_a_client_that_vanishes_is_told_apart() -> None:
    async with rig(voice()) as parts, open_channel(parts.at.triton) as channel:
        call = GRPCInferenceServiceStub(channel).ModelStreamInfer()
        await call.write(request("tts_emulated", {"TEXT": text(LONG)}))
        await call.read()
        call.cancel()
        await parts.is_idle()
        tts = (await parts.stats())["tts"]
    assert (tts["cancelled"], tts["vanished"]) == (1, 1)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 48_000])
@pytest.mark.parametrize("chunk_ms", [40.0, 80.0, 160.0])
def test_chunks_join_into_the_text_without_a_seam(rate: int, chunk_ms: float) -> None:
    chunks = Chunks(TtsProfile(sample_rate=rate, chunk_ms=chunk_ms))
    for length in (1, 7, 40, 91, 700):
        pieces = chunks.of("x" * length, 1.0)
        total = sum(size for _, size in pieces)
        assert total * 1000 / rate == pytest.approx(max(40, 60 * length), abs=1)
        assert pieces[0][1] * 1000 / rate == pytest.approx(40, abs=chunk_ms / 2)
        assert all(chunk_ms / 2 - 1 <= size * 1000 / rate <= chunk_ms * 1.5 + 1 for _, size in pieces[1:])
        ring = len(babble(rate)[0])
        assert all((a + size) % ring == b for (a, size), (b, _) in pairwise(pieces))


def test_the_babble_repeats_without_a_seam_and_is_as_loud_as_a_voice() -> None:
    signal, syllable = babble(16_000)
    assert 20 * np.log10(np.sqrt((signal**2).mean())) == pytest.approx(-20, abs=0.5)
    assert np.abs(signal).max() < 1
    assert abs(float(signal[0] - signal[-1])) < 0.01
    twice = cut(16_000, len(signal) - syllable, 2 * syllable)
    assert np.array_equal(twice[:syllable], signal[-syllable:])
    assert np.array_equal(twice[syllable:], signal[:syllable])


async def test_what_a_model_repository_says_of_it() -> None:
    async with rig() as parts, open_channel(parts.at.triton) as channel:
        repository = Repository(channel)
        assert await repository.is_live()
        assert [model.state for model in await repository.index(ready=True)] == ["READY"]
        await repository.unload("tts_emulated")
        assert not await repository.index(ready=True)
        assert not await repository.is_ready("tts_emulated")
        with pytest.raises(ModelNotLoaded):
            await repository.config("tts_emulated")
        await repository.load("tts_emulated")
        assert await parts.ask("tts") > 1
        with pytest.raises(TritonError, match="no such model"):
            await repository.load("tts_nobody")


async def test_many_streams_at_once() -> None:
    async with rig(voice(), wait_ms=5_000) as parts:  # how soon is the machine's; that all come is ours
        counts = await asyncio.gather(*(parts.ask("tts") for _ in range(30)))
    assert len(set(counts)) == 1
