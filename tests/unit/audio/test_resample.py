"""The live resampler: state across chunks, delay, level, aliasing."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.audio.pcm import Int16
from gateway.audio.polyphase import bank, covers
from gateway.audio.resample import MAX_RATE, MIN_RATE, Resampler, _Own, borrow, give_back, resample

PAIRS = [
    (48_000, 16_000),
    (8_000, 16_000),
    (22_050, 16_000),
    (24_000, 48_000),
    (44_100, 16_000),
    (11_025, 48_000),
    (22_051, 48_000),
]
"""The last have too little in common for shared coefficients."""


def noise(n: int) -> Int16:
    return (np.random.default_rng(1).standard_normal(n) * 3000).astype(np.int16)


def tone(hz: float, rate: int, seconds: float = 1.0) -> Int16:
    return np.asarray(8000 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate), np.int16)


@pytest.mark.parametrize(("rate_in", "rate_out"), PAIRS)
@pytest.mark.parametrize("chunk_ms", [20, 7, 33])
def test_resampler_state_across_chunks_equals_one_shot(rate_in: int, rate_out: int, chunk_ms: int) -> None:
    x = noise(rate_in)
    chunked = Resampler(rate_in, rate_out)
    step = rate_in * chunk_ms // 1000
    parts = [chunked.push(x[k : k + step]) for k in range(0, len(x), step)]
    parts.append(chunked.flush())
    # Sums of floats may be added up in another order.
    np.testing.assert_allclose(np.concatenate(parts), resample(x, rate_in, rate_out), atol=1)


@pytest.mark.parametrize(("rate_in", "rate_out"), PAIRS)
def test_every_frame_comes_out_at_once(rate_in: int, rate_out: int) -> None:
    live = Resampler(rate_in, rate_out)
    fed = out = 0
    for _ in range(50):
        fed += rate_in // 50
        out += len(live.push(noise(rate_in // 50)))
        assert fed / rate_in - out / rate_out <= 0.0025


def test_same_rate_passes_through() -> None:
    x = noise(320)
    assert Resampler(16_000, 16_000).push(x) is x


def test_usable_again_after_flush() -> None:
    live = Resampler(48_000, 16_000)
    first = np.concatenate([live.push(noise(960)), live.flush()])
    second = np.concatenate([live.push(noise(960)), live.flush()])
    np.testing.assert_array_equal(first, second)
    assert live.flush().size == 0


def test_keeps_the_level_and_does_not_alias() -> None:
    kept = resample(tone(1_000, 48_000), 48_000, 16_000).astype(float)
    folded = resample(tone(10_400, 48_000), 48_000, 16_000).astype(float)
    assert np.sqrt(np.mean(kept[1000:-1000] ** 2)) == pytest.approx(8000 / np.sqrt(2), rel=0.02)
    assert np.sqrt(np.mean(folded[1000:-1000] ** 2)) < 10


@pytest.mark.parametrize("rate", [0, 7_999, 48_001, -16_000])
def test_unknown_rates_are_refused(rate: int) -> None:
    with pytest.raises(ValueError, match="8000 to 48000"):
        Resampler(rate, 16_000)
    with pytest.raises(ValueError, match="8000 to 48000"):
        Resampler(16_000, rate)


@pytest.mark.parametrize(
    ("rate_in", "rate_out"), [(22_050, 48_000), (48_000, 16_000), (8_000, 16_000), (22_051, 48_000)]
)
def test_a_recycled_resampler_is_as_good_as_new(rate_in: int, rate_out: int) -> None:
    t = np.arange(rate_in // 5) / rate_in
    x = np.asarray(8_000 * np.sin(2 * np.pi * (200 * t + 3_000 * t * t)), np.int16)
    used = Resampler(rate_in, rate_out)
    used.push(noise(rate_in // 7))
    for _ in range(3):
        used.recycle()
        again = np.concatenate([used.push(x), used.drain()])
        fresh = Resampler(rate_in, rate_out)
        expected = np.concatenate([fresh.push(x), fresh.drain()])
        both = min(len(again), len(expected))
        assert abs(len(again) - len(expected)) <= 1
        # The phase of the filter may differ by a fraction of a sample.
        assert np.corrcoef(again[:both], expected[:both])[0, 1] > 0.99


USUAL = [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000]


@pytest.mark.parametrize("rate_in", USUAL)
def test_the_usual_rates_share_their_coefficients_and_sound_as_libswresample_makes_them(rate_in: int) -> None:
    t = np.arange(rate_in) / rate_in
    for rate_out in USUAL:
        if rate_out == rate_in:
            continue
        assert covers(rate_in, rate_out)
        top = 0.4 * min(rate_in, rate_out)
        x = np.asarray(8_000 * np.sin(2 * np.pi * (100 * t + (top - 100) / 2 * t * t)), np.int16)
        ours, theirs = (
            way.push(x).astype(float) for way in (Resampler(rate_in, rate_out), _Own(rate_in, rate_out))
        )
        assert abs(len(ours) - len(theirs)) <= 1
        both = slice(200, min(len(ours), len(theirs)))
        assert np.abs(ours[both] - theirs[both]).max() <= 3, (rate_in, rate_out)


def test_rates_with_little_in_common_make_no_huge_tables() -> None:
    assert not covers(22_051, 48_000)
    assert not covers(MIN_RATE, MAX_RATE - 1)
    sizes = [sum(part[3].nbytes for part in bank(a, b)._parts) for a in USUAL for b in USUAL if a != b]
    assert max(sizes) <= 1_000_000


def test_what_is_louder_than_the_format_is_clipped() -> None:
    square = np.where(np.arange(2_205) // 20 % 2, 32_767, -32_768).astype(np.int16)
    out = resample(square, 22_050, 48_000).astype(int)
    assert out.max() == 32_767
    assert out.min() == -32_768
    steps = np.abs(np.diff(out)).max()
    assert steps < 40_000, "wrapped around"


def test_floats_are_rounded_once() -> None:
    x = tone(440, 16_000, 0.1)
    assert Resampler(16_000, 16_000).push(x.astype(np.float32) + np.float32(0.3)).tolist() == x.tolist()
    as_float = Resampler(16_000, 48_000).push(x.astype(np.float32))
    np.testing.assert_allclose(as_float, Resampler(16_000, 48_000).push(x), atol=1)


def test_a_borrowed_resampler_is_clean() -> None:
    x = noise(500)
    fresh = borrow(22_050, 48_000)
    first = fresh.push(x)
    fresh.push(noise(333))
    give_back(fresh)
    again = borrow(22_050, 48_000)
    np.testing.assert_allclose(again.push(x), first, atol=1)
    give_back(again)
