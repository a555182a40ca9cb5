"""How fast the assistant falls silent when it is interrupted."""

from __future__ import annotations

import asyncio
import random
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from bench.caller import Address, Caller, Heard
from bench.noise import room
from bench.speech import Clip
from bench.stats import FAILED
from gateway.listen.ear import WINDOW_MS
from gateway.session import events as ev

STORY = "Tell me a long story."
_REPLY_S = 6.0
_CUT_S = 4.0
_HISTOGRAM = "parley_barge_in_detect_to_flush_seconds_bucket"


@dataclass(slots=True)
class BargeIns:
    """Samples in ms; FAILED where the reply was not cut."""

    onset_to_stale: list[float] = field(default_factory=list)
    """User's first loud sample → arrival of the last frame of the cut reply."""
    onset_to_silence: list[float] = field(default_factory=list)
    """User's first loud sample → the client plays nothing more: flushed, or everything that came was played."""
    onset_to_flush: list[float] = field(default_factory=list)
    """User's first loud sample → the flush arrived: the detector was sure."""
    detector: list[float] = field(default_factory=list)
    """The detector's share of that: user's first loud sample → the frame that completed its window was sent."""
    detection_to_stale: list[float] = field(default_factory=list)
    """That frame was sent → arrival of the last frame of the cut reply; negative where a hold came first."""
    stale_after_flush: int = 0
    """Frames of a flushed generation that came after the flush."""
    false_starts: int = 0
    """Interruptions that were first taken for false."""
    misses: list[str] = field(default_factory=list)
    server: dict[float, int] = field(default_factory=dict)
    """Gateway's own histogram, audio arrived → flush: bucket (ms) → count up to it."""
    late_ms: float = 0.0


async def measure(
    address: Address,
    admin: str,
    clips: Sequence[Clip],
    moments: int,
    sessions: int,
    *,
    listening: int = 0,
    at_once: bool = False,
    seed: int = 7,
) -> BargeIns:
    """`moments` interruptions at random moments, in `sessions` sessions one after the other, or at once.

    listening: callers who say nothing meanwhile. admin: the gateway's own histogram is read there, if anywhere.
    """
    result = BargeIns()
    order = random.Random(seed)
    short = [clip for clip in clips if clip.seconds <= 4.5] or list(clips)
    before = await asyncio.to_thread(_histogram, admin) if admin else {}

    async def session(number: int, order: random.Random) -> None:
        share = moments // sessions + (number < moments % sessions)
        await asyncio.sleep(number * 0.037 if at_once else 0.0)
        async with Caller(address, sources=(room(order.randrange(1 << 30)),)) as caller:
            await asyncio.sleep(0.6)
            for _ in range(share):
                await interruption(caller, order.choice(short), order.uniform(0.5, 4.5), result)
            result.stale_after_flush += caller.client.player.stale_frames
            result.late_ms = max(result.late_ms, caller.microphone.late_s * 1000)

    async with _listeners(address, listening):
        if at_once:
            await asyncio.gather(*(session(n, random.Random(seed + n)) for n in range(sessions)))
        else:
            for number in range(sessions):
                await session(number, order)
    after = await asyncio.to_thread(_histogram, admin) if admin else {}
    result.server = {bound: count - before.get(bound, 0) for bound, count in after.items()}
    return result


@asynccontextmanager
async def _listeners(address: Address, count: int) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for number in range(count):
            await stack.enter_async_context(Caller(address, sources=(room(number),)))
        yield


async def story(caller: Caller) -> Heard | None:
    """Have the stand-in begin its long story; None when no sound of it came in time."""
    begin = asyncio.get_running_loop().time()
    await caller.client.send(ev.TextIn(STORY))
    return await caller.until(lambda: caller.reply_after(begin), _REPLY_S)


async def interruption(caller: Caller, clip: Clip, after_s: float, result: BargeIns) -> None:
    reply = await story(caller)
    if reply is not None:
        await asyncio.sleep(after_s)
    if reply is None or reply.done is not None:
        _missed(result, f"{clip.name}: no reply to interrupt")
        await caller.quiet()
        return
    said = await caller.microphone.say(clip)
    await caller.until(lambda: reply.done is not None, _CUT_S)
    if reply.done is None or reply.done.outcome is not ev.Outcome.INTERRUPTED or reply.last_at is None:
        _missed(result, f"{clip.name}, {after_s:.1f} s into the reply: not cut")
    else:
        flushes = [at for at, f in caller.of(ev.Flushed, said.began) if f.reply_id == reply.reply_id]
        result.onset_to_stale.append((reply.last_at - said.onset) * 1000)
        flushed = flushes[-1] if flushes else FAILED
        result.onset_to_flush.append((flushed - said.onset) * 1000)
        result.onset_to_silence.append((min(flushed, reply.dry_at or FAILED) - said.onset) * 1000)
        result.false_starts += len(flushes) > 1
        onsets = [s for at, s in caller.of(ev.SpeechStarted, said.began) if at <= (reply.done_at or at)]
        if onsets:
            sent = caller.microphone.wire_time(onsets[-1].at_ms + WINDOW_MS)
            result.detector.append((sent - said.onset) * 1000)
            result.detection_to_stale.append((reply.last_at - sent) * 1000)
        else:
            result.detector.append(FAILED)
            result.detection_to_stale.append(FAILED)
    # What was said gets a reply of its own; the next story begins after it.
    await caller.until(lambda: caller.reply_after(said.end), 2.5)
    await caller.quiet()
    await asyncio.sleep(0.3)


def _missed(result: BargeIns, why: str) -> None:
    for samples in (
        result.onset_to_stale,
        result.onset_to_silence,
        result.onset_to_flush,
        result.detector,
        result.detection_to_stale,
    ):
        samples.append(FAILED)
    result.misses.append(why)


def _histogram(admin: str) -> dict[float, int]:
    with urllib.request.urlopen(admin + "/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if line.startswith(_HISTOGRAM):
            bound = line.split('le="')[1].split('"')[0]
            found[float(bound.replace("+Inf", "inf")) * 1000] = int(float(line.rsplit(" ", 1)[1]))
    return found
