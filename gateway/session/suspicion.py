"""Holds a reply back while something loud may be the user's voice, until the detector has decided.

The client still plays what it has buffered (the pacing lead), so a hold that ends before that is
over is not heard. Only a loud sound that goes on may hold longer, up to `fast_hold_ms`, and not where
our own echo is known to come back: a gap would shift the echo that the guard has learnt. Nothing is
flushed, dropped or said to the client: that stays the detector's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.listen.ear import Guard
from gateway.listen.fast_onset import FastOnset
from gateway.session.core import Core
from gateway.speak.playout import Playout

_JITTER_S = 0.010
"""Frames held back leave this long before the client runs dry."""
_REST_S = 0.5
"""After a hold that was heard, none is begun for this long."""


class Suspicion:
    """One per session. `hear` gets the input while a reply is audible that the user may interrupt."""

    def __init__(self, core: Core, playout: Playout, guard: Guard | None) -> None:
        self._core, self._playout, self._guard = core, playout, guard
        self._onset = FastOnset(core.settings.barge_in, core.hello.input_rate)
        self._feed = self._onset.feed
        self._most_s = core.settings.barge_in.fast_hold_ms / 1000
        self._timer: asyncio.TimerHandle | None = None
        self._began_s = 0.0
        self._dry_s = 0.0
        self._not_before_s = 0.0
        self._whole = True
        self.on_change: Callable[[bool], None] = lambda holding: None

    @property
    def holding(self) -> bool:
        return self._timer is not None

    def hear(self, pcm: bytes) -> None:
        """PCM16 at the input rate, as it comes in."""
        if len(pcm) & 1:
            self._whole = False  # whoever sends half samples has the detector alone
        if not self._whole:
            return
        loud = self._feed(pcm)
        if self._timer is None:
            if loud and (now := self._core.now()) >= self._not_before_s:
                self._begin(now)
        elif not self._onset.sustained and self._core.now() > self._dry_s:
            self._let_go()

    def stop(self, *, confirmed: bool = False) -> None:
        """The detector has decided, or there is nothing to hold any more."""
        self._onset.forget()
        if self._timer is not None:
            self._end("confirmed" if confirmed else "released")

    def _begin(self, now: float) -> None:
        dry_s = self._playout.runs_dry_s if self._core.barge_in else None
        if dry_s is None or dry_s - _JITTER_S <= now:
            return
        self._playout.hold_back()
        self._began_s, self._dry_s = now, dry_s
        self._timer = self._core.later(min(dry_s - _JITTER_S - now, self._most_s), self._at_dry)
        self.on_change(True)

    def _at_dry(self) -> None:
        left_s = self._began_s + self._most_s - self._core.now()
        echoes = self._guard is not None and self._guard.delay_ms is not None
        if left_s > 0 and self._onset.sustained and not echoes:
            self._timer = self._core.later(left_s, self._let_go)
        else:
            self._let_go()

    def _let_go(self) -> None:
        """Not confirmed in time: playout catches up with its lead at once."""
        now = self._core.now()
        heard = now > self._dry_s
        if heard:
            self._not_before_s = now + _REST_S
        self._end("heard" if heard else "released")

    def _end(self, how: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._playout.let_go()
        self._core.parts.metrics.held_back(how)
        self.on_change(False)
