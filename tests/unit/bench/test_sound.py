"""What the benchmarks send: true ends of speech, levels of noise, an echo at its place."""

from __future__ import annotations

import numpy as np
import pytest

from bench import noise
from bench.echo import EchoPath
from bench.speech import RATE, bounds
from gateway.audio.pcm import to_pcm
from gateway.cli.player import Player
from gateway.session.events import ReplyAudio


def test_speech_ends_with_its_last_loud_stretch_not_with_a_click() -> None:
    clip = np.random.default_rng(0).standard_normal(2 * RATE) * 30  # the room
    clip[RATE // 2 : RATE] += np.sin(np.arange(RATE // 2) * 0.3) * 8_000
    clip[int(1.6 * RATE) : int(1.6 * RATE) + 80] = 9_000
    onset, end = bounds(clip.astype(np.int16))
    assert onset == pytest.approx(0.5, abs=0.011)
    assert end == pytest.approx(1.0, abs=0.011)


def test_a_clip_that_is_one_click_has_bounds_all_the_same() -> None:
    clip = np.zeros(RATE, np.int16)
    clip[8_000] = 20_000
    onset, end = bounds(clip)
    assert onset <= 0.5 <= end


@pytest.mark.parametrize("make", [noise.white, noise.pink])
def test_noise_has_the_level_it_is_said_to_have(make: object) -> None:
    assert callable(make)
    made = make(1.0, -40.0, 3)
    assert 10 * np.log10(np.mean(made.astype(np.float64) ** 2)) == pytest.approx(-40.0, abs=0.1)
    assert np.array_equal(made, make(1.0, -40.0, 3)), "seeded"


def test_babble_and_television_are_made_of_the_voices() -> None:
    voices = [np.sin(np.arange(RATE) * w).astype(np.float32) for w in (0.1, 0.2)]
    for made in (noise.babble(voices, 2.0, -30, 1), noise.television(voices, 2.0, -30, 1)):
        assert made.size == 2 * RATE
        assert 10 * np.log10(np.mean(made.astype(np.float64) ** 2)) == pytest.approx(-30.0, abs=0.1)


def test_a_switched_source_is_silent_while_it_is_off() -> None:
    source = noise.Switched(noise.loop(np.arange(1, 9, dtype=np.float32)))
    assert source(0.0, 3).tolist() == [1, 2, 3]
    source.on = False
    assert source(0.0, 3).tolist() == [0, 0, 0]
    source.on = True
    assert source(0.0, 3).tolist() == [4, 5, 6]


def test_the_echo_comes_back_late_and_weaker() -> None:
    player = Player(24_000)
    path = EchoPath(gain_db=-8.0, delay_s=0.040)
    path.attach(player)
    tone = np.sin(np.arange(480) * 0.2).astype(np.float32) * 0.5
    heard = []
    for k in range(20):
        now = 5.0 + k * 0.02
        if 3 <= k < 8:
            player.push(now, ReplyAudio("r", 1, k - 3, 0, to_pcm(tone)))
        heard.append(path(now, 320))
    levels = [float(np.sqrt(np.mean(frame**2))) for frame in heard]
    # Played from frame 3 on, 40 ms (two frames) later at the microphone.
    assert max(levels[:5]) < 0.001
    assert min(levels[5:10]) > 0.12
    assert max(levels[11:]) < 0.001
    assert levels[7] == pytest.approx(0.5 / np.sqrt(2) * 10 ** (-8 / 20), rel=0.1)
    assert path.played_s == pytest.approx(0.1)
