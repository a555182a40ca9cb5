"""Paced sending of one session's reply audio, and the only place that knows what was heard.

Frames leave at real time, `lead` ahead of it. What left is kept until it is surely heard, so that a
reply paused by a false alarm goes on from the first frame that was not. "Heard" follows the pacing
clock unless the client reports its own position.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from gateway.speak.reel import FRAME_MS, Reel
from gateway.speak.ticker import FRAME_S, Ticker
from gateway.speak.tts import Chunk

_KEEP_HEARD_FRAMES = 100
"""2 s: a client may report that it is this far behind the pacing clock."""
_TIMER_SLACK_S = 0.001
"""uvloop's timers have a resolution of 1 ms."""


Send = Callable[[int, int, int, bytes], None]
"""Takes a frame: generation, which changes with every reply and every flush; sequence, which counts a
generation's frames from 0; offset_ms, its place in the reply's audio; PCM16 of 20 ms."""


class Playout:
    """One reply at a time: `start` gives the track to fill; `pause`/`resume` and `drop` in between."""

    def __init__(
        self,
        ticker: Ticker,
        *,
        rate: int,
        lead_ms: int,
        buffer_s: float,
        loudness_dbfs: float,
        send: Send,
        on_mark: Callable[[int], None],
        on_heard: Callable[[], None],
    ) -> None:
        """send: must not block. on_mark(n): the n-th mark's audio starts to be sent.
        on_heard: the finished reply was heard to its end."""
        self._ticker = ticker
        self._rate, self._loudness_dbfs = rate, loudness_dbfs
        self._lead_s = lead_ms / 1000
        self._slack_s = ticker.slack_s
        self._limit_ms = max(2 * FRAME_MS, buffer_s * 1000)
        self._send, self._on_mark, self._on_heard = send, on_mark, on_heard
        self._room = asyncio.Event()
        self.generation = 0
        self._track: Track | None = None
        self._reel = Reel(rate, loudness_dbfs)
        self._clear()

    def _clear(self) -> None:
        self._reel.close()
        self._reel = Reel(self._rate, self._loudness_dbfs)
        self._next = 0  # index of the next frame to send
        self._marks: deque[tuple[int, int]] = deque()  # (first frame index, mark)
        self._paused = False
        self._held_back = False
        self._sequence = 0
        self._anchor_s: float | None = None  # loop time at which frame `_anchor` is heard
        self._anchor = 0
        self._reported_ms: int | None = None  # fixed while paused or dropped
        self._lag_ms = 0  # the client is this far behind the pacing clock
        self._room.set()

    def start(self) -> Track:
        """Begin a new reply. Anything left of the last one is gone, and its track is closed."""
        self._clear()
        self.generation += 1
        self._track = Track(self)
        return self._track

    # ---- interruption ----

    def hold(self) -> None:
        """Nothing is sent until `resume`; what was sent stays sent."""
        self._paused = True
        self._held_back = False
        self._ticker.leave(self._tick)

    def pause(self) -> int:
        """Stop now; returns the generation given up. No frame of it will follow."""
        self._freeze_heard()
        self.hold()
        return self.generation

    def resume(self) -> int:
        """Go on from the first frame not heard, under a new generation (the same if none was sent)."""
        if self._next:
            heard = self.heard_ms() // FRAME_MS
            self._next = min(max(heard, self._reel.base), self._reel.end)
            self.generation += 1
            self._sequence = 0
        self._reported_ms = None
        self._anchor_s, self._anchor = None, self._next
        self._paused = self._held_back = False
        self._wake()
        return self.generation

    def drop(self) -> int:
        """Forget everything unsent; returns the generation given up. Until `start`, nothing is sent."""
        self._ticker.leave(self._tick)
        given_up = self.generation
        heard = self.heard_ms()
        self._clear()
        self._track = None
        self._paused = True
        self._reported_ms = heard
        return given_up

    # ---- doubt ----

    @property
    def runs_dry_s(self) -> float | None:
        """Loop time at which the client has played what was sent, by the pacing clock; None when nothing
        is being sent."""
        if self._paused or self._anchor_s is None or (self._reel.finished and not self._reel.has(self._next)):
            return None
        return self._heard_at(self._next)

    def hold_back(self) -> None:
        """Send nothing until `let_go`, `resume` or `start`; nothing is given up, the pacing clock goes on."""
        self._held_back = True

    def let_go(self) -> None:
        """What became due meanwhile leaves at once. The pacing clock moves only if the client ran dry."""
        if self._held_back:
            self._held_back = False
            self._wake()

    # ---- what was heard ----

    @property
    def begun(self) -> bool:
        """A frame of this reply was sent."""
        return self._next > 0

    @property
    def left(self) -> bool:
        """Something of this reply is or may still be unheard."""
        return not self._reel.finished or self.heard_ms() < self.total_ms

    @property
    def total_ms(self) -> int:
        """Audio written so far."""
        return self._reel.total_ms

    def heard_ms(self) -> int:
        """Of this reply's audio, by the client's report or the pacing clock."""
        if self._reported_ms is not None:
            return self._reported_ms
        if self._anchor_s is None:
            return self._anchor * FRAME_MS
        return max(0, self._paced_ms() - self._lag_ms)

    def report(self, heard_ms: int) -> bool:
        """The client's own position; False when it cannot be (beyond what was sent)."""
        if not 0 <= heard_ms <= self._next * FRAME_MS:
            return False
        if self._anchor_s is None:
            self._reported_ms = heard_ms
        else:
            self._lag_ms = max(0, self._paced_ms() - heard_ms)
        return True

    def _paced_ms(self) -> int:
        assert self._anchor_s is not None
        passed = (asyncio.get_running_loop().time() - self._anchor_s) * 1000
        return int(min(max(passed, 0) + self._anchor * FRAME_MS, self._next * FRAME_MS))

    def _freeze_heard(self) -> None:
        self._reported_ms = self.heard_ms()
        self._anchor_s = None

    # ---- sending ----

    def _wake(self) -> None:
        if self._paused or not (self._reel.finished or self._reel.has(self._next)):
            return
        now = asyncio.get_running_loop().time()
        self._send_due(now, 0.0)
        if not self._paused and (self._reel.finished or self._reel.has(self._next)):
            due_s = now if self._anchor_s is None else self._heard_at(self._next) - self._lead_s
            self._ticker.join(self._tick, due_s)

    def _tick(self, now: float) -> None:
        self._send_due(now, self._slack_s)

    def _send_due(self, now: float, early_s: float) -> None:
        """early_s: a frame may leave so long before its time, since the next chance is a frame's time away."""
        ahead_s = self._lead_s + early_s
        # Fifty times a second for everybody who is spoken to: written for few calls.
        while not (self._paused or self._held_back):
            number = self._next
            if number >= self._reel.end:
                if not self._reel.has(number):
                    break
                self._reel.forget(number - _KEEP_HEARD_FRAMES)
            anchor_s = self._anchor_s
            heard_at = now if anchor_s is None else anchor_s + (number - self._anchor) * FRAME_S
            if anchor_s is None or heard_at + FRAME_S < now:
                # First frame, or the audio came a frame too late: what follows is heard from now on.
                self._anchor_s, self._anchor, heard_at = now, number, now
            if heard_at - ahead_s > now:
                break
            self._send_next(number)
        reel = self._reel
        if not self._paused and self._next >= reel.end and not reel.has(self._next):
            if not reel.finished:
                self._ticker.leave(self._tick)  # the next write wakes it again
            elif self._anchor_s is None or now >= self._heard_at(self._next) - _TIMER_SLACK_S:
                self._ticker.leave(self._tick)
                self._paused = True
                self._on_heard()

    def _heard_at(self, index: int) -> float:
        """Loop time at which the frame starts to be heard, by the pacing clock."""
        assert self._anchor_s is not None
        return self._anchor_s + (index - self._anchor) * FRAME_S

    def _send_next(self, number: int) -> None:
        while self._marks and self._marks[0][0] <= number:
            self._on_mark(self._marks.popleft()[1])
        pcm = self._reel.frame(number)
        sequence = self._sequence
        self._next, self._sequence = number + 1, sequence + 1
        self._send(self.generation, sequence, number * FRAME_MS, pcm)
        if not self._room.is_set() and not self._full:
            self._room.set()

    @property
    def _full(self) -> bool:
        return self._reel.total_ms - self._next * FRAME_MS >= self._limit_ms


class Track:
    """Takes one reply's audio. Once its reply is dropped it takes nothing more: whoever still fills it,
    because a cancelled task has not noticed yet, fills nobody else's."""

    def __init__(self, playout: Playout) -> None:
        self._playout = playout

    @property
    def open(self) -> bool:
        """False once its reply was dropped."""
        return self._playout._track is self

    @property
    def total_ms(self) -> int:
        """Audio written so far."""
        return self._playout.total_ms if self.open else 0

    def mark(self, number: int) -> None:
        """What is written from here on belongs to piece `number`."""
        if self.open:
            it = self._playout
            it._marks.append((it._reel.total_ms // FRAME_MS, number))

    async def write(self, chunk: Chunk) -> None:
        """As the voice model made it. Waits while `buffer_s` of audio is unsent.

        Raises ValueError for audio that is none."""
        it = self._playout
        while self.open and it._full:
            it._room.clear()
            await it._room.wait()
        if not self.open:
            return
        it._reel.add(chunk)
        it._wake()

    def finish(self) -> None:
        """No more audio will come; the rest is padded to a whole frame."""
        if not self.open:
            return
        self._playout._reel.finished = True
        self._playout._wake()
