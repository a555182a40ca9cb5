"""PCM in and out: little-endian, clipped, whole samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audio.pcm import (
    SampleCarry,
    duration_ms,
    frame_bytes,
    rms_dbfs,
    silence,
    to_float,
    to_int16,
    to_pcm,
)


def test_fixed_little_endian() -> None:
    assert to_int16(b"\x01\x02").tolist() == [0x0201]
    assert to_pcm(np.array([0x0201], np.int16)) == b"\x01\x02"
    assert to_pcm(np.array([0x0201 / 32768], np.float32)) == b"\x01\x02"


@given(st.binary(max_size=200))
def test_float_and_back_is_the_same(data: bytes) -> None:
    whole = data[: len(data) // 2 * 2]
    assert to_pcm(to_float(whole)) == whole


def test_clips_and_survives_nan() -> None:
    out = to_int16(to_pcm(np.array([2.0, -2.0, np.nan, np.inf, -np.inf], np.float32)))
    assert out.tolist() == [32767, -32768, 0, 32767, -32768]


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="whole samples"):
        to_float(b"abc")


@given(st.lists(st.binary(max_size=7)))
def test_odd_length_pcm_carries_the_odd_byte_over(chunks: list[bytes]) -> None:
    carry = SampleCarry()
    fed = [carry.feed(chunk) for chunk in chunks]
    whole = b"".join(chunks)
    assert all(len(part) % 2 == 0 for part in fed)
    assert b"".join(fed) == whole[: len(whole) // 2 * 2]


def test_frame_sizes() -> None:
    assert frame_bytes(48_000) == 1_920
    assert frame_bytes(16_000, 100) == 3_200
    assert silence(16_000, 20) == bytes(640)
    assert duration_ms(bytes(640), 16_000) == 20


def test_levels() -> None:
    assert rms_dbfs(np.zeros(10, np.float32)) == -120
    assert rms_dbfs(np.zeros(0, np.float32)) == -120
    assert rms_dbfs(np.full(512, 0.1, np.float32)) == pytest.approx(-20, abs=0.01)
