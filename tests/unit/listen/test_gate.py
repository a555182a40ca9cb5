"""The noise gate: opens for speech, stays shut for the room, never stops the clock."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from gateway.listen.gate import NoiseGate
from gateway.listen.vad import WINDOW
from gateway.settings import GateSettings

Float = npt.NDArray[np.float32]


def noise(level_dbfs: float, windows: int, seed: int = 0) -> Float:
    """White noise [windows, 512] at an RMS level."""
    x = np.random.default_rng(seed).standard_normal((windows, WINDOW))
    return np.asarray(x * 10 ** (level_dbfs / 20), np.float32)


def passed(gate: NoiseGate, windows: Float, factor: float = 1.0) -> list[bool]:
    """Which windows came through; what does is unchanged, what does not is zeros of the same length."""
    verdicts = []
    for window in windows:
        out = gate.process(window, factor)
        assert out.shape == (WINDOW,)
        assert out.dtype == np.float32
        assert np.array_equal(out, window) if gate.open else not out.any()
        verdicts.append(gate.open)
    return verdicts


def in_room(level_dbfs: float = -50.0, **settings: float) -> NoiseGate:
    """A gate that has listened to 3.2 s of a room's noise."""
    gate = NoiseGate(GateSettings.model_validate(settings))
    passed(gate, noise(level_dbfs, 100))
    return gate


def test_closes_in_steady_noise_and_knows_its_level() -> None:
    gate = in_room(-50)
    assert gate.floor_dbfs == pytest.approx(-50, abs=1)
    assert not any(passed(gate, noise(-50, 50, seed=1)))


def test_opens_at_once_above_the_margin_and_holds() -> None:
    gate = in_room(-50)
    assert passed(gate, noise(-35, 3, seed=2)) == [True] * 3
    after = passed(gate, noise(-50, 20, seed=3))
    held = after.index(False)
    assert held == round(240 / 32)
    assert not any(after[held:])


@pytest.mark.parametrize(("above", "factor", "opens"), [(10, 1.0, True), (10, 2.0, False), (17, 2.0, True)])
def test_the_state_multiplies_the_margin(above: float, factor: float, opens: bool) -> None:
    gate = in_room(-50)
    assert any(passed(gate, noise(-50 + above, 5, seed=4), factor)) is opens


def test_disabled_passes_everything() -> None:
    gate = NoiseGate(GateSettings(enabled=False))
    assert all(passed(gate, noise(-50, 100)))


def test_follows_the_room_up_and_down() -> None:
    gate = in_room(-60)
    passed(gate, noise(-40, 100, seed=5))
    assert gate.floor_dbfs == pytest.approx(-40, abs=1)
    assert not any(passed(gate, noise(-40, 20, seed=6)))
    passed(gate, noise(-60, 100, seed=7))
    assert gate.floor_dbfs == pytest.approx(-60, abs=1)


def test_digital_silence_closes_it_and_teaches_it_nothing() -> None:
    gate = in_room(-50)
    passed(gate, noise(-30, 3, seed=8))
    verdicts = passed(gate, np.zeros((200, WINDOW), np.float32))
    assert verdicts[-1] is False
    assert gate.floor_dbfs == pytest.approx(-50, abs=1)
    assert not any(passed(gate, noise(-50, 20, seed=9)))


def test_the_first_words_of_a_session_pass() -> None:
    gate = NoiseGate(GateSettings())
    assert all(passed(gate, noise(-30, 5)))


def test_speech_longer_than_the_window_does_not_close_it_on_itself() -> None:
    """Syllables at 4 Hz, 20 dB deep, for 12 s: no gap of the gate reaches a hangover."""
    gate = in_room(-55)
    t = np.arange(12 * 16_000 // WINDOW * WINDOW) / 16_000
    depth = 10 ** (-(1 + np.cos(2 * np.pi * 4 * t)) / 2)
    speech = noise(-25, t.size // WINDOW, seed=10) * depth.reshape(-1, WINDOW).astype(np.float32)
    verdicts = passed(gate, speech)
    longest = max(len(gap) for gap in "".join("1" if v else "0" for v in verdicts).split("1"))
    assert longest * 32 < 160


@pytest.mark.parametrize("percentile", [0.0, 10.0, 50.0, 100.0])
def test_the_floor_is_the_percentile_of_the_last_levels(percentile: float) -> None:
    """Also where levels repeat, and while the first ones come in."""
    settings = GateSettings(percentile=percentile, window_s=0.64)
    gate = NoiseGate(settings)
    rng = np.random.default_rng(3)
    levels: list[float] = []
    for k in range(400):
        level = float(rng.choice([-50.0, -40.0, rng.uniform(-60, -20)]))
        power = 10 ** (level / 10)
        gate.passes(power)
        levels.append(10 * math.log10(power))
        recent = sorted(levels[-20:])
        assert gate.floor_dbfs == max(-65.0, recent[round((len(recent) - 1) * percentile / 100)]), k
