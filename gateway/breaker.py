"""A part that keeps failing is left alone for a while, and whoever asks meanwhile is told so at once.

After `failures` failures in a row nothing is asked of the part for `open_s`. Then one call is let
through: its first answer lets the others in, its failure leaves the part alone again. Without this,
every caller would wait out a deadline, and a part that struggles would be kept down by being asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType

log = logging.getLogger(__name__)

_SAME_CUT_S = 0.1
"""Calls that were under way together and end within this time failed of one thing, and count once."""
_MAX_QUOTE = 250


class State(IntEnum):
    """As the metric `parley_breaker_state` shows it."""

    CLOSED = 0
    """Every call goes through."""
    HALF_OPEN = 1
    """One call goes through, or would; the others are refused while it is under way."""
    OPEN = 2
    """No call goes through."""


class LeftAlone(Exception):
    """The call was refused without asking the part. `str()` is fit for the client, as the failures' are."""


class Breaker:
    """One per endpoint, shared by all sessions; belongs to the event loop's thread. Time is the loop's."""

    def __init__(self, subject: str, *, failures: int, open_s: float) -> None:
        """subject: what is behind it, as a sentence begins with it ("the LLM"). failures: 1 or more."""
        self._subject, self._limit, self._open_s = subject, failures, open_s
        self._failures = 0
        self._last_failure = ""
        self._last_failure_s = float("-inf")
        self._tripped = False
        self._blocked_until_s = 0.0
        self._probe: Call | None = None
        self._era = 0
        """Grows when it opens: what calls of before have to say is about a time that is over."""
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def state(self) -> State:
        if not self._tripped:
            return State.CLOSED
        return State.HALF_OPEN if self._probe is not None or not self._blocked() else State.OPEN

    @property
    def refusal(self) -> str:
        """Why a call would be refused now; empty when it would go through."""
        if not self._blocked():
            return ""
        left_s = self._blocked_until_s - asyncio.get_running_loop().time()
        times = f"{self._failures} times in a row" if self._failures > 1 else "just now"
        return (
            f"{self._subject} failed {times} and is left alone for {max(0.1, left_s):.1f} s; "
            f"try again then (the last failure: {self._last_failure})"
        )

    def call(self, unwell: Callable[[BaseException], bool]) -> Call:
        """`with breaker.call(unwell) as call:` around one use of the part, `call.answered()` at its first answer.

        unwell: whether an exception says that the part is not well, not that the request was wrong. Other
        exceptions, cancellation and an end without an answer count neither way.
        Entering raises LeftAlone.
        """
        return Call(self, unwell)

    async def free(self) -> None:
        """Returns when a call would go through; whoever calls first gets through, so ask again."""
        loop = asyncio.get_running_loop()
        while self._blocked():
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.add(waiter)
            try:
                async with asyncio.timeout_at(self._blocked_until_s):
                    await waiter
            except TimeoutError:
                pass
            finally:
                self._waiters.discard(waiter)

    # ---- for Call ----

    def enter(self, call: Call) -> None:
        if refusal := self.refusal:
            raise LeftAlone(refusal)
        call.era, call.began_s = self._era, asyncio.get_running_loop().time()
        if self._tripped:
            # A call that gives no verdict for so long makes room for another: it must not shut everybody out.
            self._probe, self._blocked_until_s = call, call.began_s + self._open_s

    def answer(self, call: Call) -> None:
        """The part has begun to answer: others may ask. One more failure opens it again, until a call ends well."""
        if call.era == self._era and self._tripped:
            self._close(self._limit - 1)

    def succeed(self, call: Call) -> None:
        if call.era == self._era:
            self._failures = 0

    def fail(self, call: Call, error: BaseException) -> None:
        if call.era != self._era:
            return
        now = asyncio.get_running_loop().time()
        together = call.began_s < self._last_failure_s and now - self._last_failure_s < _SAME_CUT_S
        self._last_failure_s = now
        self._last_failure = str(error).rstrip(".")[:_MAX_QUOTE]
        if self._tripped or not together:
            self._failures += 1
        if self._tripped or self._failures >= self._limit:
            self._open(now)

    def pass_over(self, call: Call) -> None:
        if self._probe is call:
            self._probe, self._blocked_until_s = None, asyncio.get_running_loop().time()
            self._wake()

    def _blocked(self) -> bool:
        return self._tripped and asyncio.get_running_loop().time() < self._blocked_until_s

    def _open(self, now: float) -> None:
        log.warning("%s is left alone for %g s: %s", self._subject, self._open_s, self._last_failure)
        self._tripped, self._probe = True, None
        self._era += 1
        self._blocked_until_s = now + self._open_s

    def _close(self, failures: int) -> None:
        log.warning("%s answers again", self._subject)
        self._tripped, self._probe, self._failures = False, None, failures
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class Call:
    """One use of the part: see `Breaker.call`."""

    __slots__ = ("_answered", "_breaker", "_ended", "_unwell", "began_s", "era")

    def __init__(self, breaker: Breaker, unwell: Callable[[BaseException], bool]) -> None:
        self._breaker, self._unwell = breaker, unwell
        self._answered = self._ended = False
        self.era = -1
        self.began_s = 0.0

    def __enter__(self) -> Call:
        self._breaker.enter(self)
        return self

    def answered(self) -> None:
        """The part gave an answer, or a piece of one. May be called for each."""
        if not self._answered:
            self._answered = True
            self._breaker.answer(self)

    def done(self) -> None:
        """It has given all there was to give: nothing later counts."""
        self.answered()
        if not self._ended:
            self._ended = True
            self._breaker.succeed(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ended:
            return
        if error is None and self._answered:
            self.done()
        elif error is not None and self._unwell(error):
            self._breaker.fail(self, error)
        else:
            self._breaker.pass_over(self)
        self._ended = True
