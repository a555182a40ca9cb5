"""What a listener hears: a client's jitter buffer as a model, without a sound card.

Frames play at real time in the order they came, each at its arrival or when the one before it ends,
whichever is later. A flush drops what has not begun to play. So the server's "heard" can be checked
against a client's, an interruption's stale audio measured, and a conversation recorded as it sounded.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from gateway.audio.pcm import Int16, to_int16
from gateway.session.events import ReplyAudio


@dataclass(frozen=True, slots=True)
class Played:
    """A frame that is audible from `at` on, unless a flush comes first."""

    at: float
    """Loop time, s."""
    frame: ReplyAudio


class Player:
    """`now` is the caller's clock in seconds, everywhere the same one."""

    def __init__(self, rate: int, *, jitter_s: float = 0.0, keep: bool = True) -> None:
        """`jitter_s`: how long the first frame of a run waits. `keep`: remember all, for `mix`."""
        self._rate = rate
        self._jitter_s = jitter_s
        self._keep = keep
        self._ahead: deque[Played] = deque()
        self._free_at = 0.0
        self._heard: dict[str, int] = {}
        self.played: list[Played] = []
        """Everything heard so far, when kept."""
        self.flushed_generation = -1
        self.stale_frames = 0
        """Frames that came after the flush that should have kept them back."""
        self.gaps = 0
        """Times that a reply ran dry in the middle."""
        self.missing_frames = 0
        """Frames that never came: holes in a generation's sequence numbers."""
        self._next = (-1, 0)  # the newest generation, and the sequence number due
        self.dropped_ms = 0
        """Audio that flushes dropped before it was heard."""

    def push(self, now: float, frame: ReplyAudio) -> None:
        self._advance(now)
        if frame.generation <= self.flushed_generation:
            self.stale_frames += 1
            return
        generation, due = self._next
        self.missing_frames += max(0, frame.sequence - (due if frame.generation == generation else 0))
        self._next = (frame.generation, frame.sequence + 1)
        if now > self._free_at:
            if frame.sequence > 0:
                self.gaps += 1
            self._free_at = now + self._jitter_s
        self._ahead.append(Played(self._free_at, frame))
        self._free_at += self._seconds(frame)
        self._advance(now)

    def flush(self, now: float, generation: int) -> int:
        """Drop what is not audible yet of this generation and below; returns the ms dropped."""
        self._advance(now)
        self.flushed_generation = max(self.flushed_generation, generation)
        kept = deque(p for p in self._ahead if p.frame.generation > generation)
        dropped = sum(self._seconds(p.frame) for p in self._ahead if p.frame.generation <= generation)
        self._free_at -= dropped
        self._ahead = kept
        self.dropped_ms += round(dropped * 1000)
        return round(dropped * 1000)

    def heard_ms(self, now: float, reply_id: str) -> int:
        """How much of a reply's audio has been heard."""
        self._advance(now)
        return self._heard.get(reply_id, 0)

    @property
    def ends_at(self) -> float:
        """When the last frame that came has been heard, or was: loop time, 0 before the first."""
        return self._free_at

    def mix(self, start: float, seconds: float) -> Int16:
        """What was audible from `start` on: int16 [seconds · rate]. Needs `keep`."""
        self._advance(start + seconds)
        out = np.zeros(int(seconds * self._rate), np.int16)
        for played in self.played:
            samples = to_int16(played.frame.pcm)
            at = round((played.at - start) * self._rate)
            if at < 0:
                samples, at = samples[-at:], 0
            out[at : at + len(samples)] = samples[: max(0, len(out) - at)]
        return out

    def _advance(self, now: float) -> None:
        while self._ahead and self._ahead[0].at <= now:
            played = self._ahead.popleft()
            frame = played.frame
            self._heard[frame.reply_id] = frame.offset_ms + round(self._seconds(frame) * 1000)
            if self._keep:
                self.played.append(played)
        while len(self._heard) > 64:
            del self._heard[next(iter(self._heard))]

    def _seconds(self, frame: ReplyAudio) -> float:
        return len(frame.pcm) / (2 * self._rate)
