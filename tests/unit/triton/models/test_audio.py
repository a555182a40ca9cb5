from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.triton.models.audio import Chunks, Samples, Trim, limited

RATE = 16_000
MS = RATE // 1000


def tone(ms: int) -> Samples:
    return np.full(ms * MS, 0.5, np.float32)


def drained(chunks: Chunks) -> list[float]:
    lengths, last = [], False
    while chunks.ready() and not last:
        chunk, last = chunks.take()
        lengths.append(len(chunk) / MS)
    return lengths


def test_the_first_chunk_needs_little_and_the_next_ones_grow() -> None:
    chunks = Chunks(RATE)
    chunks.put(tone(79))
    assert not chunks.ready(), "what would be left is too short for a chunk of its own"
    chunks.put(tone(1))
    assert len(chunks.take()[0]) == 40 * MS
    chunks.put(tone(1_000))
    assert drained(chunks) == [80, 160, 160, 160, 160, 160]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=40))
def test_all_audio_leaves_in_chunks_of_the_contract(pieces: list[int]) -> None:
    chunks, lengths = Chunks(RATE), []
    for piece in pieces:
        chunks.put(tone(piece))
        lengths += drained(chunks)
    chunks.closed = True
    lengths += drained(chunks)
    assert sum(lengths) == pytest.approx(sum(pieces))
    assert lengths[0] <= 80
    assert all(length <= 160 for length in lengths)
    assert all(length >= 40 for length in lengths) or sum(pieces) < 40
    assert not chunks.ms


def test_the_end_without_audio_is_one_empty_last_chunk() -> None:
    chunks = Chunks(RATE)
    chunks.closed = True
    chunk, last = chunks.take()
    assert (len(chunk), last) == (0, True)


def test_silence_before_speech_is_trimmed_across_pieces() -> None:
    trim = Trim(RATE)
    silence = np.zeros(25 * MS, np.float32)
    assert sum(len(trim(silence)) for _ in range(8)) == 0
    assert len(trim(tone(25))) == (25 + 10) * MS
    assert len(trim(silence)) == 25 * MS, "silence after the onset stays"


def test_no_more_than_half_a_second_is_trimmed() -> None:
    kept = Trim(RATE)(np.concatenate([np.zeros(2_000 * MS, np.float32), tone(10)]))
    assert len(kept) == 1_510 * MS


def test_nothing_reaches_full_scale_and_quiet_audio_is_untouched() -> None:
    loud = np.linspace(-3, 3, 1_001).astype(np.float32)
    bent = limited(loud)
    assert np.abs(bent).max() < 1.0
    assert (np.diff(bent) >= 0).all(), "the order of samples is kept"
    quiet = np.linspace(-0.9, 0.9, 101).astype(np.float32)
    assert limited(quiet) is quiet
