"""The assistant's own voice coming back through the microphone, and real speech over it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.bargein import BargeIns, interruption, story
from bench.caller import OUT_RATE, Caller
from bench.microphone import Float
from bench.noise import room
from bench.speech import RATE, Clip
from gateway.audio.pcm import to_int16
from gateway.audio.resample import Resampler
from gateway.cli.player import Player
from gateway.session import events as ev

_RING_S = 4


class EchoPath:
    """From the loudspeaker to the microphone: `gain_db` weaker, `delay_s` later. A source of sound."""

    def __init__(self, *, gain_db: float, delay_s: float) -> None:
        self._gain = np.float32(10 ** (gain_db / 20) / 32768)
        self._delay_s = delay_s
        self._player: Player | None = None
        self._resampler = Resampler(OUT_RATE, RATE)
        self._ring = np.zeros(_RING_S * RATE, np.float32)
        self._origin: float | None = None
        self._written = 0
        self._ends_at = 0.0
        self.played_s = 0.0
        """Reply audio played so far."""

    def attach(self, player: Player) -> None:
        self._player = player

    def __call__(self, sounds: float, count: int) -> Float:
        """float32 [count] heard at the microphone from `sounds` on."""
        if self._origin is None:
            self._origin = sounds - 1.0
        self._collect(sounds + count / RATE)
        at = round((sounds - self._delay_s - self._origin) * RATE)
        where = np.arange(at, at + count) % self._ring.size
        heard: Float = self._ring[where] * self._gain
        self._ring[where] = 0
        return heard

    def _collect(self, now: float) -> None:
        """What has begun to play by now into the ring, at the sample at which it plays."""
        assert self._player is not None
        assert self._origin is not None
        self._player.heard_ms(now, "")  # brings the player up to date
        for played in self._player.played:
            samples = to_int16(played.frame.pcm)
            if abs(played.at - self._ends_at) > 0.0005:
                self._resampler.flush()
                self._written = round((played.at - self._origin) * RATE)
            self._ends_at = played.at + samples.size / OUT_RATE
            self.played_s += samples.size / OUT_RATE
            out = self._resampler.push(samples)
            self._ring[np.arange(self._written, self._written + out.size) % self._ring.size] = out
            self._written += out.size
        self._player.played.clear()


@dataclass(slots=True)
class Echo:
    played_s: float = 0.0
    """Reply audio that came back while nobody spoke."""
    replies: int = 0
    pauses: int = 0
    """Times that a reply paused although nobody spoke."""
    cancelled: int = 0
    """Replies cut although nobody spoke."""
    phantom_turns: int = 0
    """Transcripts of words that nobody said."""
    interruptions: BargeIns = field(default_factory=BargeIns)
    """Real speech over the echo."""


async def measure(
    address: str, clips: Sequence[Clip], *, seconds: float, sessions: int, interruptions: int, seed: int = 11
) -> Echo:
    """`seconds` of echoed playout over `sessions` parallel sessions, then `interruptions` in all."""
    result = Echo()
    await asyncio.gather(
        *(
            _session(
                address,
                clips,
                seconds / sessions,
                interruptions // sessions + (n < interruptions % sessions),
                result,
                random.Random(seed + n),
            )
            for n in range(sessions)
        )
    )
    return result


async def _session(
    address: str, clips: Sequence[Clip], seconds: float, cuts: int, result: Echo, order: random.Random
) -> None:
    path = EchoPath(gain_db=-8.0, delay_s=0.040)
    short = [clip for clip in clips if clip.seconds <= 4.5] or list(clips)
    async with Caller(address, sources=(room(order.randrange(1 << 30)), path), play_to=path.attach) as caller:
        await asyncio.sleep(0.5)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds + 30
        while (missing := seconds - path.played_s) > 0 and loop.time() < deadline:
            if caller.speaking is None:
                await story(caller)
            await caller.until(lambda: caller.speaking is None or None, min(missing, 2.0))
        result.played_s += path.played_s
        result.pauses += len(caller.of(ev.Flushed))
        result.cancelled += sum(done.outcome is ev.Outcome.INTERRUPTED for _, done in caller.of(ev.ReplyDone))
        result.phantom_turns += sum(t.final and bool(t.text.strip()) for _, t in caller.of(ev.Transcript))
        result.replies += len(caller.replies)
        await caller.quiet()
        for _ in range(cuts):
            await interruption(caller, order.choice(short), order.uniform(1.0, 4.0), result.interruptions)
