"""The first guess at an onset: what is loud, for what was heard before."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.listen.fast_onset import FastOnset
from gateway.settings import BargeInSettings

RATE = 16_000


def noise(ms: int, dbfs: float, seed: int = 1, rate: int = RATE) -> bytes:
    samples = np.random.default_rng(seed).standard_normal(rate * ms // 1000) * 10 ** (dbfs / 20)
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def known(dbfs: float = -70.0, ms: int = 1000, rate: int = RATE) -> FastOnset:
    onset = FastOnset(BargeInSettings(), rate)
    assert not onset.feed(noise(ms, dbfs, rate=rate))
    return onset


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
@pytest.mark.parametrize("chunk_ms", [10, 20, 60])
def test_a_voice_over_a_quiet_room_is_found_in_its_first_20_ms(rate: int, chunk_ms: int) -> None:
    onset = known(rate=rate)
    voice, size = noise(60, -30.0, rate=rate), rate * chunk_ms // 1000 * 2
    found = [onset.feed(voice[at : at + size]) for at in range(0, len(voice), size)]
    assert any(found[: max(1, 20 // chunk_ms)])
    assert onset.sustained


def test_nothing_is_loud_before_the_sessions_first_echo_could_be_heard() -> None:
    onset = FastOnset(BargeInSettings(), RATE)
    assert not onset.feed(noise(500, -20.0))


@pytest.mark.parametrize("dbfs", [-60.0, -45.0, -30.0])
def test_steady_noise_is_not_loud_whatever_its_level(dbfs: float) -> None:
    onset = known(dbfs)
    assert not any(onset.feed(noise(20, dbfs, seed)) for seed in range(500))


def test_what_is_quieter_than_anybody_speaks_is_not_loud() -> None:
    assert not known(-90.0).feed(noise(200, -43.0))


def test_a_sound_that_turned_out_to_be_none_is_not_loud_again_at_once_but_after_a_while() -> None:
    onset = known()
    assert onset.feed(noise(40, -30.0))
    onset.feed(noise(600, -70.0))
    assert not onset.feed(noise(40, -30.0))
    onset.feed(noise(8000, -70.0))
    assert onset.feed(noise(40, -30.0))


def test_the_users_own_voice_is_not_learnt() -> None:
    onset = known()
    assert onset.feed(noise(200, -20.0))
    onset.forget()
    onset.feed(noise(600, -70.0))
    assert onset.feed(noise(40, -30.0))


def test_a_click_does_not_go_on() -> None:
    onset = known()
    click = np.random.default_rng(3).standard_normal(1600) * np.exp(-np.arange(1600) / (0.008 * RATE))
    pcm = (click * 8000).astype("<i2").tobytes()
    assert onset.feed(pcm[:640])
    onset.feed(pcm[640:1280])
    onset.feed(pcm[1280:1920])
    assert not onset.sustained
