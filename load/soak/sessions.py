"""Sessions that come, say one thing, hear the reply, and go; one in ten goes rudely."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from load.caller_build import BuildError, ensure_caller
from load.clips import NoSpeech, ensure_clips
from load.report.data import Floats
from load.report.figures import Slope, percentile, slope
from load.run import usage
from load.run.child import Failed
from load.run.fleet import Fleet, Sample
from load.run.gauges import gauges
from load.run.soaking import Outcome, Soak
from load.run.stage import GatewayUp, gateway_up, parts_up

ABOUT = "10,000 short sessions, one in ten cut off rudely: the slopes of memory and tasks over them"
_ALL, _SHORT = 10_000, 200
_ROUNDS = 25
"""After each of them everybody has left, and memory and tasks are looked at."""
_WARM_ROUNDS = 5
"""The first of them fill pools and arenas, once: no part of the slopes."""
_AT_ONCE = 64
_RUDE_EVERY = 10
_BLOCKS, _BLOCK_LEAST = 20, 25
_ENOUGH = 2_000
_ONE_S = 40.0
_RETRYABLE = ("refused:UNAVAILABLE", "refused:RESOURCE_EXHAUSTED")
_AGAIN_S = (0.2, 0.5, 1.0, 2.0, 4.0, 4.0, 8.0, 8.0, 8.0, 8.0)
"""Pauses of a caller that was refused before it dials again."""
_REST_S = 15.0
_LOOK_S = 0.2
_SHORTEST_MS = 1_500.0
"""A clip of about a second is looked for; with none, the shortest is taken."""
_PROFILE = "zero"
_PARTS = ("llm.replies=['Fine.']", "tts.ms_per_char=60")


@dataclass(slots=True)
class _Found:
    sessions: list[int] = field(default_factory=list)
    """After each round."""
    rss_mb: list[float] = field(default_factory=list)
    tasks: list[float] = field(default_factory=list)
    track: list[tuple[int, float]] = field(default_factory=list)
    """(sessions so far, MB), several times a second."""
    ends: Counter[str] = field(default_factory=Counter)
    turns: list[float] = field(default_factory=list)
    connects: list[float] = field(default_factory=list)
    stale: int = 0
    refused: int = 0
    """Dials that were refused for the moment and came again."""
    seconds: float = 0.0


async def run(soak: Soak) -> Outcome:
    """Raises Failed."""
    count = soak.count or (_SHORT if soak.short else _ALL)
    try:
        program, manifest = await asyncio.to_thread(ensure_caller), await asyncio.to_thread(ensure_clips)
    except (BuildError, NoSpeech) as error:
        raise Failed(str(error)) from None
    clips = await asyncio.to_thread(_short_clips, manifest, soak.out)
    found = _Found()

    def heard(sample: Sample) -> None:
        value = float(sample["ms"]) if sample["ok"] else float("inf")
        if sample["name"] == "voice_to_voice":
            found.turns.append(value)
        elif sample["name"] == "connect" and sample["ok"]:
            found.connects.append(value)
        elif sample["name"] == "stale_frames":
            found.stale += int(sample["ms"])

    async with (
        parts_up(soak.out, _PROFILE, _PARTS, clips, 1, soak.other_cores) as parts,
        gateway_up(soak.out, parts, soak.settings, 1, soak.gateway_cores) as gateway,
        Fleet(program, soak.out / "callers.log", soak.other_cores, heard) as fleet,
        AsyncExitStack() as stack,
    ):
        began = time.monotonic()
        tracking = asyncio.create_task(_track(gateway, found))
        stack.callback(tracking.cancel)
        rounds = min(_ROUNDS, max(4, count // 20))
        for number in range(rounds):
            here = count * (number + 1) // rounds - count * number // rounds
            await _round(fleet, gateway, str(clips), number, here, soak.at_once or _AT_ONCE, found)
            await _rest(gateway, found, sum(found.ends.values()))
            print(
                f"  {sum(found.ends.values()):>6} sessions, {found.rss_mb[-1]:.1f} MB, {found.tasks[-1]:.0f} tasks, "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
        found.seconds = time.monotonic() - began
    return _outcome(found, count)


async def _round(
    fleet: Fleet, gateway: GatewayUp, clips: str, number: int, count: int, at_once: int, found: _Found
) -> None:
    places = asyncio.Semaphore(at_once)

    async def one(index: int) -> None:
        rude = index % _RUDE_EVERY == _RUDE_EVERY - 1
        plan = {
            "host": gateway.grpc, "clips": clips, "turns": 1, "think_ms": [0, 200], "seed": number * 100_000 + index + 1,
            "hang_up": "rude" if rude else "clean", "reply_timeout_ms": 8_000,
        }  # fmt: skip
        async with places:
            for pause_s in _AGAIN_S:
                ok, why = await fleet.call(plan, _ONE_S)
                if ok or not why.startswith(_RETRYABLE):
                    break
                found.refused += 1  # the gateway looks after the sessions it has; the caller dials again
                await asyncio.sleep(pause_s)
        found.ends["fine" if ok else why or "unknown"] += 1

    async with asyncio.TaskGroup() as group:
        for index in range(count):
            group.create_task(one(index))


async def _track(gateway: GatewayUp, found: _Found) -> None:
    while True:
        found.track.append((sum(found.ends.values()), _rss_mb(gateway)))
        await asyncio.sleep(_LOOK_S)


def _rss_mb(gateway: GatewayUp) -> float:
    return usage.rss_mb(usage.trees([gateway.child.pid])[gateway.child.pid])


async def _rest(gateway: GatewayUp, found: _Found, sessions: int) -> None:
    """Once nobody is there any more, what is left of them."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _REST_S
    while (now := await gauges(f"{gateway.admin}/metrics")).get("sessions") != 0:
        if loop.time() > end:
            raise Failed(
                f"{now.get('sessions')} sessions were still open {_REST_S:.0f} s after everybody had left"
            )
        await asyncio.sleep(_LOOK_S)
    # what a session leaves to be done after its end has a moment to be done
    least = now["tasks"]
    for _ in range(5):
        await asyncio.sleep(_LOOK_S)
        now = await gauges(f"{gateway.admin}/metrics")
        least = min(least, now["tasks"])
    found.sessions.append(sessions)
    found.tasks.append(least)
    found.rss_mb.append(_rss_mb(gateway))


def _short_clips(manifest: Path, out: Path) -> Path:
    """A manifest of those that take about a second to say."""
    clips: list[dict[str, Any]] = json.loads(manifest.read_text())
    for clip in clips:
        clip["file"] = str(manifest.parent / clip["file"])
    chosen = [clip for clip in clips if clip["duration_ms"] <= _SHORTEST_MS]
    chosen = chosen or [min(clips, key=lambda clip: float(clip["duration_ms"]))]
    path = out / "clips.json"
    path.write_text(json.dumps(chosen))
    return path


def _floor(track: list[tuple[int, float]], begin: int, blocks: int) -> tuple[Floats, Floats]:
    """(sessions, MB): the least of each stretch. Ended sessions wait for Python's collector as cycles do; what
    they leave for good is what lies under all its teeth."""
    inside = [(float(n), mb) for n, mb in track if n >= begin]
    if not inside:
        return np.empty(0), np.empty(0)
    edges = np.linspace(begin, inside[-1][0], blocks + 1)
    x, y = [], []
    for low, high in pairwise(edges):
        here = [(n, mb) for n, mb in inside if low <= n <= high]
        if here:
            x.append((low + high) / 2)
            y.append(min(mb for _, mb in here))
    return np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)


def _outcome(found: _Found, count: int) -> Outcome:
    skip = min(_WARM_ROUNDS, len(found.sessions) // 4)
    warm = found.sessions[skip - 1] if skip else 0
    blocks = max(4, min(_BLOCKS, (count - warm) // _BLOCK_LEAST))
    x, y = _floor(found.track, warm, blocks)
    memory = slope(x, 1000 * y)  # kB per session
    tasks = slope(
        np.array(found.sessions[skip:], dtype=np.float64), np.array(found.tasks[skip:], dtype=np.float64)
    )
    long = count >= _ENOUGH
    failed = count - found.ends["fine"]
    whys = ", ".join(f"{why} {n}" for why, n in found.ends.most_common() if why != "fine")
    ok = failed <= count // 100 and found.stale == 0 and not (long and _grows(memory)) and not _grows(tasks)
    findings = [
        f"{count:,} sessions in {found.seconds:.0f} s ({count / found.seconds:.1f} a second), one in {_RUDE_EVERY} cut "
        f"off rudely: {'nothing grows' if ok else 'NOT FINE'}.",
        f"Memory: {_text(memory, 1000, 'kB')} per 1,000 sessions"
        + ("." if long else f"; fewer than {_ENOUGH:,} sessions judge nothing."),
        f"Tasks at rest: {_text(tasks, 1000, 'tasks')} per 1,000 sessions.",
        f"Sessions that failed: {failed}{f' ({whys})' if whys else ''}; stale frames: {found.stale}; "
        f"dials refused for the moment by an overloaded gateway, and repeated: {found.refused:,}.",
        f"Connect p50 {percentile(found.connects, 0.5):.1f}, p99 {percentile(found.connects, 0.99):.1f} ms; "
        f"voice to voice p50 {percentile(found.turns, 0.5):.0f}, p99 {percentile(found.turns, 0.99):.0f} ms.",
        f"Slopes are least-squares lines with 95 % confidence, without the first {warm:,} sessions: of memory through "
        f"the least of each of {len(x)} stretches, of tasks through what was left each time everybody had gone.",
    ]
    rows = [
        (f"{n:,}", f"{rss:.1f}", f"{left:.0f}")
        for n, rss, left in zip(found.sessions, found.rss_mb, found.tasks, strict=True)
    ]
    return Outcome(
        "Soak: sessions", ok, findings, ("sessions so far", "memory at rest, MB", "tasks at rest"), rows,
        {
            "sessions": found.sessions, "rss_mb": found.rss_mb, "tasks": found.tasks, "ends": dict(found.ends), "refused_and_repeated": found.refused,
            "seconds": found.seconds, "rss_kb_per_session": _plain(memory), "tasks_per_session": _plain(tasks),
        },
    )  # fmt: skip


def _grows(found: Slope | None) -> bool:
    return found is not None and found.low > 0


def _text(found: Slope | None, per: float, unit: str) -> str:
    if found is None:
        return "not known"
    noise = ", 0 within noise" if found.within_noise else ""
    return f"{per * found.per_x:+.2f} {unit} ({per * found.low:+.2f} … {per * found.high:+.2f}{noise})"


def _plain(found: Slope | None) -> dict[str, float] | None:
    return None if found is None else {"slope": found.per_x, "low": found.low, "high": found.high}
