"""Speech with pauses is what it says it is, and a rehearsal tells settings apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench import virtual
from bench.pauses import Line, cuts, longest_pause_s, with_pause
from bench.rehearsal import ONE, Rehearsal
from bench.speech import RATE, bounds, clip, recordings
from bench.turns import Turns, converse
from bench.turns_part import FAST


def test_a_pause_moves_what_follows_and_nothing_else() -> None:
    tone = (8000 * np.sin(np.arange(RATE) * 0.2)).astype(np.int16)
    quiet = (20 * np.random.default_rng(1).standard_normal(RATE // 2)).astype(np.int16)
    whole = clip("tones", np.concatenate([quiet, tone, tone, quiet]), "one two")
    line = Line(whole, (("one", 1.5), ("two", 2.5)))
    paused = with_pause(line, 1.5, 0.3, "one|two")
    assert len(paused.clip.samples) == len(whole.samples) + 0.3 * RATE
    assert paused.words == (("one", 1.5), ("two", 2.8))
    assert (paused.clip.onset_s, paused.clip.end_s) == (whole.onset_s, whole.end_s + 0.3)
    assert bounds(paused.clip.samples)[1] == pytest.approx(whole.end_s + 0.3, abs=0.011)
    assert longest_pause_s(whole) == 0
    assert longest_pause_s(paused.clip) == pytest.approx(0.3, abs=0.03)
    assert np.abs(paused.clip.samples[int(1.52 * RATE) : int(1.78 * RATE)]).max() < 200


@pytest.fixture(scope="module")
def line() -> Line:
    found = [clip for clip in recordings() if clip.name == "cards-001.wav"]
    if not found:
        pytest.skip("the real speech is not here")
    words = (("ten", 0.4), ("of", 0.52), ("clubs", 0.94))
    return Line(found[0], words)


def test_cuts_lie_between_words(line: Line) -> None:
    pytest.importorskip("pocketsphinx")
    assert {words for _, words in cuts(line.clip)} <= {"ten|of", "of|clubs"}
    assert all(line.clip.onset_s < at < line.clip.end_s for at, _ in cuts(line.clip))


def test_a_rehearsal_tells_settings_apart(line: Line) -> None:
    def rehearse(**turn: Any) -> Turns:
        async def main() -> Turns:
            found = Turns()
            async with Rehearsal(ONE, turn=turn) as gateway:
                await converse(gateway.call, [line] * 3, found, about_to_say=gateway.script.say)
            return found

        return virtual.run(main())

    default, fast = rehearse(), rehearse(**FAST)
    assert (default.turns, default.early, fast.early) == (3, 0, 0)
    assert 450 < default.voice_to_voice[-1] < 700
    assert fast.voice_to_voice[-1] < default.voice_to_voice[-1] - 100
    assert default.log[-1]["heard"] == ["ten of clubs"]
