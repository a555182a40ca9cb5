"""A rolling update of gateways and of speech services under live calls."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack

from load.clips import NoSpeech, ensure_clips
from load.report.figures import percentile
from load.run.child import Failed
from load.run.soaking import Outcome, Soak
from load.run.stage import environment
from load.soak.rolling.course import GRACE_S, Stack, stack_up
from load.soak.rolling.people import Person, Seen

ABOUT = "32 calls while every gateway, and every speech service with its Triton, is replaced: none is lost"
_ALL, _SHORT = 10, 1
"""Updates of everything."""
_CALLERS = 32
_PAUSE_S, _PAUSE_SHORT_S = 10.0, 1.0
"""Between two replacements."""
_ONE_IN = 4
"""One caller in so many speaks; the others type, which costs this machine less."""
_CLIPS = 3
_AGAIN_S = 2.0
"""The longest that a caller may be without a line."""


async def run(soak: Soak) -> Outcome:
    """Raises Failed."""
    updates = soak.count or (_SHORT if soak.short else _ALL)
    callers = soak.at_once or _CALLERS
    began = time.monotonic()
    async with AsyncExitStack() as leaving:
        stack = await leaving.enter_async_context(stack_up(soak.out, environment(soak.settings)))
        clips = await asyncio.to_thread(_clips)
        people = [Person(seed, () if seed % _ONE_IN else clips) for seed in range(callers)]
        living = [asyncio.create_task(one.live(stack.gateways.address)) for one in people]

        async def all_gone() -> None:
            for task in living:
                task.cancel()
            await asyncio.gather(*living, return_exceptions=True)

        leaving.push_async_callback(all_gone)
        await asyncio.gather(*(one.present.wait() for one in people))
        rows = []
        for number in range(updates):
            rows += await _update(stack, number, soak.short)
        for one in people:
            one.leave()
        await asyncio.gather(*living)
    seen = Seen()
    for one in people:
        seen.add(one.seen)
    return _outcome(seen, rows, updates, callers, time.monotonic() - began, short=soak.short)


async def _update(stack: Stack, number: int, short: bool) -> list[tuple[str, str, str, str]]:
    rows = []
    for part in (stack.gateways, stack.speech):
        for old in part.replicas[: 1 if short and part is stack.speech else None]:
            await asyncio.sleep(_PAUSE_SHORT_S if short else _PAUSE_S)
            left, took_s = await part.replace_one(old)
            rows.append((f"{number + 1}", old.child.name, left, f"{took_s:.2f}"))
            print(f"  {old.child.name} replaced: {left} after {took_s:.2f} s", flush=True)
    return rows


def _outcome(
    seen: Seen,
    rows: list[tuple[str, str, str, str]],
    updates: int,
    callers: int,
    seconds: float,
    *,
    short: bool,
) -> Outcome:
    longest = max(seen.gaps_s, default=0.0)
    # The short form has a machine of two cores start processes under all callers without a pause: whoever comes in
    # that moment is told to wait. There half of the callers must be back in time, and nothing may be lost.
    judged = percentile(seen.gaps_s, 0.5) if short else longest
    moved = len(seen.gaps_s) >= updates * callers
    ok = not (seen.cut or seen.forgotten or seen.failed or seen.fresh) and judged < _AGAIN_S and moved
    findings = [
        f"{callers} calls, {_updates(updates, len(rows))} in {seconds:.0f} s: "
        + ("no call and no reply was lost." if ok else "NOT FINE."),
        f"Replies heard to their end: {seen.replies}, {seen.spoken} of them to callers who speak; cut: {len(seen.cut)}{_some(seen.cut)}; calls that failed: "
        f"{len(seen.failed)}{_some(seen.failed)}.",
        f"Reconnections: {len(seen.gaps_s)}, each with the history it had but {seen.fresh}; replies that knew of another "
        f"number of questions than was asked: {len(seen.forgotten)}{_some(seen.forgotten)}.",
        f"From the close to the next `ready`: p50 {percentile(seen.gaps_s, 0.5):.2f} s, p99 "
        f"{percentile(seen.gaps_s, 0.99):.2f} s, longest {longest:.2f} s (allowed: {_AGAIN_S:g} s"
        f"{', for half of them' if short else ''}).",
        f"Errors that callers were told of: {len(seen.errors)}{_some(seen.errors)}. The grace is {GRACE_S:g} s.",
    ]
    data = {
        "replies": seen.replies, "spoken": seen.spoken, "cut": seen.cut, "failed": seen.failed, "fresh": seen.fresh, "errors": seen.errors,
        "forgotten": seen.forgotten, "gaps_s": seen.gaps_s, "updates": updates, "callers": callers, "seconds": seconds,
    }  # fmt: skip
    return Outcome(
        "Soak: rolling", ok, findings, ("update", "replaced", "drain", "drained in, s"), rows, data
    )


def _clips() -> list[bytes]:
    """Short ones, which have no pause that ends a turn. Raises Failed."""
    try:
        manifest = ensure_clips()
    except NoSpeech as error:
        raise Failed(str(error)) from None
    found = json.loads(manifest.read_text())
    found.sort(key=lambda clip: int(clip["duration_ms"]))
    return [(manifest.parent / clip["file"]).read_bytes() for clip in found[:_CLIPS]]


def _updates(updates: int, replaced: int) -> str:
    if replaced == 4 * updates and updates > 1:
        return f"{updates} updates of two gateways and two speech services"
    return f"{replaced} processes replaced"


def _some(what: list[str]) -> str:
    return f" ({'; '.join(sorted(set(what))[:3])})" if what else ""
