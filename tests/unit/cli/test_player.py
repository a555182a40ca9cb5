from __future__ import annotations

import numpy as np

from gateway.cli.player import Player
from gateway.session.events import ReplyAudio

RATE = 24_000
MS = 0.001


def frame(sequence: int, generation: int = 1, value: int = 1, offset_ms: int | None = None) -> ReplyAudio:
    pcm = np.full(480, value, "<i2").tobytes()
    return ReplyAudio("r1", generation, sequence, sequence * 20 if offset_ms is None else offset_ms, pcm)


def test_a_burst_plays_at_real_time() -> None:
    player = Player(RATE)
    for n in range(5):
        player.push(10.0, frame(n))
    assert player.heard_ms(10.0, "r1") == 20
    assert player.heard_ms(10.0 + 39 * MS, "r1") == 40
    assert player.heard_ms(10.0 + 80 * MS, "r1") == 100
    assert abs(player.ends_at - 10.1) < 1e-9


def test_a_flush_drops_what_is_not_audible_yet_and_keeps_the_rest() -> None:
    player = Player(RATE)
    for n in range(5):
        player.push(10.0, frame(n))
    assert player.flush(10.0 + 30 * MS, 1) == 60
    assert player.dropped_ms == 60
    assert player.heard_ms(11.0, "r1") == 40
    assert abs(player.ends_at - 10.04) < 1e-9


def test_a_frame_after_its_flush_is_stale_and_never_heard() -> None:
    player = Player(RATE)
    player.push(10.0, frame(0))
    player.flush(10.0, 1)
    player.push(10.01, frame(1))
    assert player.stale_frames == 1
    assert player.heard_ms(11.0, "r1") == 20
    player.push(11.0, frame(0, generation=2, offset_ms=20))
    assert player.stale_frames == 1
    assert player.heard_ms(11.0, "r1") == 40


def test_a_reply_that_runs_dry_has_a_gap() -> None:
    player = Player(RATE)
    player.push(10.0, frame(0))
    player.push(10.5, frame(1))
    assert player.gaps == 1
    player.push(10.51, frame(2))
    assert player.gaps == 1


def test_a_jitter_buffer_delays_the_first_frame_only() -> None:
    player = Player(RATE, jitter_s=0.04)
    player.push(10.0, frame(0))
    assert player.heard_ms(10.03, "r1") == 0
    player.push(10.05, frame(1))
    assert player.gaps == 0
    assert player.heard_ms(10.061, "r1") == 40


def test_mix_puts_every_frame_where_it_was_heard() -> None:
    player = Player(RATE)
    player.push(10.1, frame(0, value=7))
    player.push(10.1, frame(1, value=9))
    mixed = player.mix(10.0, 0.2)
    assert len(mixed) == 4_800
    assert set(mixed[:2_399]) == {0}
    assert set(mixed[2_401:2_879]) == {7}
    assert set(mixed[2_881:3_359]) == {9}
    assert set(mixed[3_361:]) == {0}
    assert set(player.mix(10.12, 0.01)) == {9}, "a window may begin in the middle"


def test_a_sequence_gap_is_detected_and_a_new_generation_is_none() -> None:
    player = Player(RATE)
    for n in (0, 1, 4, 5):
        player.push(10.0, frame(n))
    assert player.missing_frames == 2
    player.flush(10.0, 1)
    player.push(10.1, frame(6))  # stale: not looked at
    player.push(10.2, frame(0, generation=2))
    player.push(10.2, frame(1, generation=2))
    assert player.missing_frames == 2
    player.push(10.3, frame(1, generation=3))  # its first frame is missing
    assert player.missing_frames == 3
