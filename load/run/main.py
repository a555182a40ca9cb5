"""`scripts/load`: from a command line to a run folder with a page."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench.machine import describe
from gateway.cli.common import FAILED, INTERRUPTED, OK, USAGE, complain
from load.caller_build import BuildError, ensure_caller
from load.clips import NoSpeech, ensure_clips
from load.report.build import build
from load.report.text import text
from load.run import usage
from load.run.callers import Callers, locust_up
from load.run.child import Child, Failed
from load.run.options import Options, cores, masked, parse
from load.run.scenarios import PARTS, REPORT, SCENARIOS
from load.run.stage import can_pin, counted, gateway_up, parts_up, profile_facts
from load.run.watch import Row, Watch

_SPARE_S = 60.0
"""What locust may take beyond the duration: coming up, spawning, hanging up."""
_FILES = (
    "run.json",
    "samples.csv",
    "frames.csv",
    "timeline.csv",
    "self.csv",
    "ramp.json",
    "summary.json",
    "report.html",
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        if options.scenario == REPORT:
            return _report(options)
        wanted = cores(options.gateway_core), cores(options.callers_core)
    except ValueError:
        complain("cores are numbers: --gateway-core 0,2")
        return USAGE
    try:
        if options.against is not None and not (options.against / "run.json").exists():
            raise Failed(f"{options.against} is no run folder: it has no run.json")
        _prepare(options.out)
        pinned = can_pin(*wanted)
        gateway_cores, callers_cores = wanted if pinned else (set(), set())
        facts = _facts(options, pinned)
        try:
            asyncio.run(_run(options, facts, gateway_cores, callers_cores))
        finally:
            (options.out / "run.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        return _report(options)
    except Failed as error:
        complain(str(error))
        return FAILED
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED


def _prepare(out: Path) -> None:
    """An empty place; files of a run before are replaced, those of anybody else are not touched."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise Failed(f"--out {out} cannot be used: {error.strerror}") from None


def _facts(options: Options, pinned: bool) -> dict[str, Any]:
    scenario = SCENARIOS[options.scenario]
    return {
        "scenario": {
            "name": scenario.name,
            "about": scenario.about,
            "sessions": options.sessions or scenario.sessions,
            "duration_s": options.duration_s or scenario.duration_s,
            "host": options.host,
            "workers": options.workers,
            "seed": options.seed,
        },
        "command": options.command(),
        "machine": describe(options.command()),
        "cores": {"pinned": pinned and not options.host, "gateway": options.gateway_core, "callers": options.callers_core},
        "settings": {key: value for key, _, value in (masked(pair).partition("=") for pair in options.settings)},
        "profile": None if options.host else {"name": Path(options.profile).stem, **profile_facts(options.profile, _parts(options))},
    }  # fmt: skip


async def _run(
    options: Options, facts: dict[str, Any], gateway_cores: set[int], callers_cores: set[int]
) -> None:
    """Fills the folder and `facts`. Raises Failed."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    if callers_cores:
        os.sched_setaffinity(0, callers_cores)
    try:
        await asyncio.to_thread(ensure_caller)
        clips = await asyncio.to_thread(ensure_clips)
    except (BuildError, NoSpeech) as error:
        raise Failed(str(error)) from None
    async with AsyncExitStack() as stack:
        gateway = parts = None
        host = options.host
        if not host:
            seed = options.seed
            parts = await stack.enter_async_context(
                parts_up(options.out, options.profile, _parts(options), clips, seed, callers_cores)
            )
            settings = [*_room(options), *options.settings]
            gateway = await stack.enter_async_context(
                gateway_up(options.out, parts, settings, options.workers, gateway_cores)
            )
            host = gateway.grpc
            facts["rss_before_mb"] = usage.rss_mb(usage.trees([gateway.child.pid])[gateway.child.pid])
        callers = Callers(options.out / "self.csv")
        locust = await stack.enter_async_context(locust_up(options, host, clips, callers_cores))
        watch = Watch(
            options.out / "timeline.csv",
            gateway=gateway.child.pid if gateway else 0,
            emulators=parts.child.pid if parts else 0,
            locust=lambda: locust.pid,
            metrics=f"{gateway.admin}/metrics" if gateway else "",
            callers=callers.now,
            core_a=gateway_cores if gateway else (),
            core_b=callers_cores,
            on_row=_Progress(),
        )
        sessions = options.sessions or SCENARIOS[options.scenario].sessions
        print(f"{options.scenario}: up to {sessions} at once, gateway {host}", flush=True)
        async with watch:
            await _until_done(options, locust, gateway.child if gateway else None)
        facts["ramp"] = _ramp(options.out / "ramp.json")
        if parts is not None:
            facts["parts"] = await counted(parts)


class _Progress:
    """One line for a person now and then."""

    EVERY = 10

    def __init__(self) -> None:
        self._rows = 0

    def __call__(self, row: Row) -> None:
        self._rows += 1
        if self._rows % self.EVERY:
            return
        shown = [
            f"{value:.{digits}f}{unit}"
            for key, digits, unit in (
                ("sessions", 0, " sessions"), ("gateway_cpu", 2, " cores"), ("gateway_rss_mb", 0, " MB"),
                ("vad_backlog_ms", 0, " ms behind"),
            )
            if (value := row.get(key)) is not None
        ]  # fmt: skip
        print(f"{self._rows:>6} s  {', '.join(shown)}", flush=True)


async def _until_done(options: Options, locust: Child, gateway: Child | None) -> None:
    longest = (options.duration_s or SCENARIOS[options.scenario].duration_s) + _SPARE_S
    ends = {asyncio.create_task(child.wait()): child for child in (locust, gateway) if child is not None}
    try:
        done, _ = await asyncio.wait(ends, timeout=longest, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise Failed(f"the callers were not done {_SPARE_S:.0f} s after the time that was asked for")
        if gateway is not None and any(ends[task] is gateway for task in done):
            raise Failed(f"the gateway ended while it was loaded: {gateway.last_words()}")
        if (code := locust.code) not in (0, 1):
            raise Failed(f"locust ended with {code}: {locust.last_words()}")
    finally:
        for task in ends:
            task.cancel()


def _room(options: Options) -> list[str]:
    """The gateway's own limit must not be what is measured."""
    sessions = options.sessions or SCENARIOS[options.scenario].sessions
    return [f"session.max_sessions={2 * sessions}"] if sessions > 100 else []


def _ramp(path: Path) -> dict[str, Any] | None:
    """What a ramp says of itself: held, broke_at, why."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return {key: found.get(key) for key in ("held", "broke_at", "why")}


def _parts(options: Options) -> list[str]:
    return [*PARTS.get(options.scenario, ()), *options.parts]


def _report(options: Options) -> int:
    try:
        summary = build(options.out, options.against)
    except (OSError, ValueError) as error:
        raise Failed(f"{options.out} is no run folder that can be read: {error}") from None
    print(text(summary))
    print(f"\nwrote {options.out}/report.html, summary.json, samples.csv, frames.csv, timeline.csv")
    if summary["void"]:
        complain(f"the run is void: {' '.join(summary['void'])}")
        return OK if options.allow_void else FAILED
    return OK
