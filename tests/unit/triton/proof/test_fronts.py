"""How far what was heard is from what torch made."""

from __future__ import annotations

import math
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.triton.exported.reference import save_arrays
from gateway.triton.proof.fronts import CHUNKS, LIMIT_DB, SESSION, decibels, kept, prove_front
from gateway.triton.proof.fronts import _cut as cut


@pytest.fixture
def sound() -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    return (0.2 * rng.standard_normal(16_000)).astype(np.float32)


def test_the_same_is_far_below_the_limit_whatever_its_level(sound: NDArray[np.float32]) -> None:
    assert decibels(sound, sound) < -150
    assert decibels(sound, (0.3 * sound).astype(np.float32)) < -120


@pytest.mark.parametrize("db", [-40.0, -70.0])
def test_noise_on_it_is_told_in_decibels(sound: NDArray[np.float32], db: float) -> None:
    noise = np.random.default_rng(2).standard_normal(len(sound)).astype(np.float32)
    noise *= 10 ** (db / 20) * np.sqrt(np.mean(sound**2) / np.mean(noise**2))
    assert decibels(sound, sound + noise) == pytest.approx(db, abs=0.2)


def test_one_click_at_a_seam_is_over_the_limit(sound: NDArray[np.float32]) -> None:
    clicked = sound.copy()
    clicked[8_000] += 0.1
    assert decibels(sound, clicked) > LIMIT_DB


def test_silence_at_the_start_may_be_cut_and_speech_may_not(sound: NDArray[np.float32]) -> None:
    quiet = np.concatenate([np.zeros(800, np.float32), sound])
    assert decibels(quiet, sound) < -150
    assert decibels(sound, sound[800:]) == math.inf
    # Shifted by a sample it is another sound.
    assert decibels(quiet, np.roll(sound, 1)) > -20


@pytest.mark.parametrize(
    ("wanted", "got"),
    [(0, 0), (10, 0), (0, 10), (10, 11)],
)
def test_nothing_and_too_much_are_infinitely_far(wanted: int, got: int) -> None:
    assert decibels(np.ones(wanted, np.float32), np.ones(got, np.float32)) == math.inf


def test_what_is_no_number_is_infinitely_far(sound: NDArray[np.float32]) -> None:
    """Whatever else was compared: the worst of some figures and one that is none would be any of them."""
    got = sound.copy()
    got[8_000] = np.nan
    assert decibels(sound, got) == math.inf


def test_silence_is_never_equal(sound: NDArray[np.float32]) -> None:
    silence = np.zeros_like(sound)
    assert decibels(silence, sound) == math.inf
    assert decibels(sound, silence) == math.inf
    assert decibels(silence, silence) == math.inf


@pytest.mark.parametrize("size", CHUNKS)
@pytest.mark.parametrize("length", [1, 319, 16_000])
def test_chunks_together_are_the_whole(size: int, length: int) -> None:
    audio = np.arange(length, dtype=np.float32)
    chunks = list(cut(audio, size))
    np.testing.assert_array_equal(np.concatenate(chunks), audio)
    assert all(len(chunk) for chunk in chunks)
    if size:
        assert {len(chunk) for chunk in chunks[:-1]} <= {size}


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut off", b"text"])
async def test_a_reference_that_cannot_be_read_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "tts_x" / "reference").mkdir(parents=True)
    if content is not None:
        (tmp_path / "tts_x" / "reference" / "front.npz").write_bytes(content)
    channel = grpc.aio.insecure_channel("127.0.0.1:9")
    try:
        one = await prove_front(tmp_path / "tts_x", channel)
    finally:
        await channel.close()
    assert not one.ok
    assert one.how == SESSION
    assert "reference cannot be read" in one.note
    assert "front.npz" in one.note


async def test_ids_without_a_text_are_nothing_to_say(tmp_path: Path) -> None:
    (tmp_path / "tts_x" / "reference").mkdir(parents=True)
    save_arrays(tmp_path / "tts_x" / "reference" / "front.npz", {"ids_0": np.arange(3)})
    channel = grpc.aio.insecure_channel("127.0.0.1:9")
    try:
        one = await prove_front(tmp_path / "tts_x", channel)
    finally:
        await channel.close()
    assert (one.ok, one.compared) == (True, 0)
    assert "no text that could be spoken" in one.note


@pytest.mark.parametrize(
    ("promised", "wanted", "ends"),
    [
        ("", "oh my god", "oh my god"),
        ("Oh,", "- Oh, my God.", "Oh, my God."),  # another word was promised, and stays
        ("oh", "oh my god", "oh my god"),
        ("five six", "nine", "five six"),
    ],
)
def test_a_promised_word_stays_and_nothing_else_does(promised: str, wanted: str, ends: str) -> None:
    assert kept(promised.split(), wanted.split()) == ends.split()


async def test_a_recogniser_whose_reference_holds_no_utterance_is_not_proved(tmp_path: Path) -> None:
    (tmp_path / "asr_x" / "reference").mkdir(parents=True)
    save_arrays(tmp_path / "asr_x" / "reference" / "front.npz", {"audio_0": np.zeros(3, np.float32)})
    channel = grpc.aio.insecure_channel("127.0.0.1:9")
    try:
        one = await prove_front(tmp_path / "asr_x", channel)
    finally:
        await channel.close()
    assert (one.ok, one.compared) == (False, 0)
    assert "holds no utterance" in one.note
