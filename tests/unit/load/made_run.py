"""A run folder as `scripts/load` leaves it, made of seeded numbers: for tests of the report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from load.report.data import FRAMES, SAMPLES, TIMELINE

EPOCH = 1_700_000_000.0
PROFILE = {
    "asr": {"final_ms": 40, "partial_ms": 160},
    "llm": {"first_token_ms": 126, "first_sentence_ms": 138, "tokens_per_s": 60},
    "tts": {"first_chunk_ms": 78, "rtf": 0.2, "voices": ["anna"]},
}
MACHINE = {
    "cpu": "A processor of eight cores", "cores": 2, "memory_gib": 7.8, "system": "Linux 6.1 x86_64",
    "versions": {"parley": "0.2", "python": "3.11.7", "numpy": "1.26.4"}, "date": "2026-01-02 03:04 UTC",
    "load_before": [0.1, 0.2, 0.3], "command": "scripts/load steady --out run",
}  # fmt: skip


def make_run(
    folder: Path,
    *,
    sessions: int = 16,
    seconds: int = 60,
    steps: int = 1,
    failing: float = 0.0,
    slower: float = 1.0,
    send_late_ms: float = 0.8,
    leak_mb_per_s: float = 0.0,
    scenario: str = "steady",
    seed: int = 3,
) -> Path:
    """`steps` levels up to `sessions`; `failing` share of turns, all their times `slower` than usual."""
    dice = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(_facts(scenario, sessions, seconds)))
    counts = [_at(second, seconds, steps, sessions) for second in range(seconds)]
    _write(folder / "timeline.csv", TIMELINE, _timeline(dice, counts, send_late_ms, leak_mb_per_s))
    samples, frames = [], []
    for caller in range(sessions):
        t = next(second for second, count in enumerate(counts) if count > caller) + float(dice.uniform(0, 3))
        samples.append((EPOCH + t, caller, 0, "connect", float(dice.uniform(4, 12)), 1, ""))
        turn = 0
        while (t := t + float(dice.uniform(5, 8))) < seconds - 2:
            turn += 1
            crowd = slower * (1 + 0.8 * (counts[int(t)] / 100) ** 3)
            samples += _turn(dice, EPOCH + t, caller, turn, crowd, failing)
            late = np.abs(dice.normal(0, 1.2 * crowd, 120)) + dice.exponential(0.3, 120)
            frames += [
                (f"{EPOCH + t + 0.02 * k:.3f}", caller, turn, k, f"{ms:.2f}") for k, ms in enumerate(late)
            ]
    _write(folder / "samples.csv", SAMPLES, sorted(samples))
    _write(folder / "frames.csv", FRAMES, frames)
    return folder


def _facts(scenario: str, sessions: int, seconds: int) -> dict[str, Any]:
    return {
        "scenario": {"name": scenario, "sessions": sessions, "duration_s": seconds, "about": "So many callers talk at once."},
        "command": MACHINE["command"],
        "machine": MACHINE,
        "cores": {"pinned": True, "gateway": "0", "callers": "1"},
        "settings": {"turn": {"eager": "true"}},
        "profile": PROFILE,
        "rss_before_mb": 120.0,
        "parts": {"tts": {"requests": 40, "chunks_after_cancel": 0}},
    }  # fmt: skip


def _at(second: int, seconds: int, steps: int, sessions: int) -> int:
    return max(1, round(sessions * (min(steps - 1, second * steps // seconds) + 1) / steps))


def _timeline(
    dice: np.random.Generator, counts: list[int], send_late_ms: float, leak: float
) -> list[tuple[Any, ...]]:
    rows = []
    for second, count in enumerate(counts):
        gateway = 0.02 + 0.0065 * count + dice.normal(0, 0.01)
        rss = 120 + 0.6 * count + leak * second + dice.normal(0, 0.3)
        backlog = 20 + 60 * (count / 100) ** 2 + abs(dice.normal(0, 6))
        rows.append(
            (
                EPOCH + second, count, max(0.0, gateway), rss, 0.003 * count, 0.002 * count, 0.02, backlog,
                12 + 6 * count, send_late_ms + abs(dice.normal(0, 0.1)), 0.02, 0.03,
            )
        )  # fmt: skip
    return rows


def _turn(
    dice: np.random.Generator, t: float, caller: int, turn: int, crowd: float, failing: float
) -> list[tuple[Any, ...]]:
    if dice.random() < failing:
        return [
            (
                t + 5,
                caller,
                turn,
                "turn",
                5_000.0,
                0,
                str(dice.choice(["no_reply", "timeout", "error:unavailable"])),
            )
        ]
    stopped = float(dice.normal(260, 25)) * crowd
    final = stopped + 40 * crowd + abs(float(dice.normal(0, 4)))
    token, sentence, chunk = 126 + float(dice.exponential(3)), 12.0 + float(dice.exponential(2)), 78 * crowd
    heard = final + token + sentence + chunk + float(dice.exponential(6)) * crowd
    times = {
        "speech_end_to_stopped": stopped, "speech_end_to_final": final, "final_to_first_token": token,
        "first_token_to_first_sentence": sentence, "sentence_to_first_chunk": chunk,
        "final_to_first_audio": heard - final - 2, "stop_to_first_audio": heard - stopped, "voice_to_voice": heard,
        "frame_jitter": float(dice.uniform(2, 4)), "frames": 120.0, "frames_late": 0.0, "stale_frames": 0.0,
        "early_end": float(dice.random() < 0.02), "turn": 4_800.0,
    }  # fmt: skip
    if dice.random() < 0.3:
        times |= {"barge_in": float(dice.normal(110, 18)), "detect_to_stale": float(dice.uniform(0, 6))}
    return [
        (t + ms / 1000 if name != "turn" else t + 4.8, caller, turn, name, ms, 1, "")
        for name, ms in times.items()
    ]


def _write(path: Path, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
