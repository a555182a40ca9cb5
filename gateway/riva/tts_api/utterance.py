"""One utterance: a task makes its audio, as far ahead as it may; its caller sends the frames, at their time.

Whatever pauses the sending, nothing happens to the audio: the next frame stays the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from gateway.audio.pcm import Float
from gateway.riva.tts_api.errors import Refused
from gateway.riva.tts_api.levels import VoiceLevel
from gateway.riva.tts_api.sound import FRAME_MS, Sound
from gateway.speak.ticker import FRAME_S, Ticker

_KEPT_TEXT = 10_000
_THAW_S = 0.15
"""How long the first frame of a voice never heard before may wait for more of it."""


T = TypeVar("T")


class Outcome(Enum):
    COMPLETED = "completed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of what a model says."""

    samples: Float
    """[n], −1…1."""
    rate: int
    """Hz."""
    level: VoiceLevel
    """Of the voice."""


Say = Callable[[str], AsyncGenerator[Chunk, None]]
Send = Callable[[bytes, int], Awaitable[None]]
"""A frame and its sequence number."""


class Utterance:
    """`start`, `send_all` once, `close`; `pause`, `resume` and `stop` at any time, in any order, any number of times."""

    def __init__(
        self, number: int, sound: Sound, ticker: Ticker, *, lead_s: float | None, hot_s: float
    ) -> None:
        """lead_s: how far ahead of real time frames leave; None: as fast as they are taken.

        hot_s: how much audio is made ahead; beyond it the model's answer is not read on.
        """
        self.number = number
        self.paused = False
        self.stopped = False
        self.sent = 0
        """Frames that have left."""
        self.text = ""
        """What was handed to the model, up to 10,000 characters."""
        self.first_sent: float | None = None
        """Loop time."""
        self.moved = asyncio.get_running_loop().time()
        """Loop time of the last frame, command or state."""
        self._sound = sound
        self._ticker = ticker
        self._lead_s = lead_s
        self._hot = max(1, round(hot_s * 1000 / FRAME_MS))
        self._frames: deque[bytes] = deque()
        self._complete = False
        self._failure: Exception | None = None
        self._played_until = float("-inf")
        self._waiter: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._thaw: asyncio.TimerHandle | None = None
        self._maker: asyncio.Task[None] | None = None
        self._preparing: asyncio.Task[Any] | None = None
        self._caller: asyncio.Task[object] | None = None
        self._cut: asyncio.TimerHandle | None = None
        self._unread_s = 0.0

    @property
    def ahead(self) -> int:
        """Frames that were made and have not left."""
        return len(self._frames)

    async def prepare(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What has to be known before it can be spoken; `stop`, `fail` and `close` cancel it. None: it was stopped.
        Raises what `work` raises, and what `fail` was given."""
        task = self._preparing = asyncio.create_task(work, name=f"voice of utterance {self.number}")
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            self._preparing = None
            if task.done() and not task.cancelled():
                task.exception()  # told below, or of no interest to anybody any more
        if self._failure is not None:
            raise self._failure
        return None if self.stopped or task.cancelled() else task.result()

    def start(self, pieces: AsyncGenerator[str, None], say: Say) -> None:
        self._maker = asyncio.create_task(self._make(pieces, say), name=f"utterance {self.number}")

    def pause(self) -> None:
        """No frame leaves after this; one that is being written already may."""
        self.paused = True
        self._note()

    def resume(self) -> None:
        self.paused = False
        self._note()

    def stop(self) -> None:
        """`send_all` returns; the model is told to stop."""
        self.stopped = True
        self._silence()

    def fail(self, error: Exception) -> None:
        """`send_all` raises it at once."""
        self._failure = error
        self._complete = True
        self._silence()

    def close(self) -> asyncio.Task[None] | None:
        """Nobody listens any more. Returns the task that lets go of the model, which ends by itself."""
        self.stopped = True
        self._silence()
        return self._maker

    async def send_all(self, send: Send, *, unread_s: float) -> Outcome:
        """Returns when the last frame has left or `stop` was called. Raises what the text or the model raised, after
        the audio that was made before it.

        unread_s: after `stop` or `fail`, a `send` that takes longer than this is cancelled, with its task.
        """
        loop = asyncio.get_running_loop()
        self._caller, self._unread_s = asyncio.current_task(), unread_s
        try:
            while not self.stopped:
                if self._frames and not self.paused:
                    now = loop.time()
                    due = self._due(now)
                    if due > now + self._ticker.slack_s:
                        self._ticker.join(self._tick, due)
                        await self._wake()
                        continue
                    frame = self._frames.popleft()
                    self._room.set()
                    number, self.sent = self.sent, self.sent + 1
                    self._played_until = max(self._played_until, now) + FRAME_S
                    self.first_sent = self.first_sent or now
                    await send(frame, number)
                    self.moved = loop.time()
                    continue
                if not self._frames and self._complete:
                    if self._failure is not None:
                        raise self._failure
                    return Outcome.COMPLETED
                self._ticker.leave(self._tick)
                await self._wake()
            return Outcome.STOPPED
        finally:
            self._ticker.leave(self._tick)
            self._caller = None
            if self._cut is not None:
                self._cut.cancel()

    def _due(self, now: float) -> float:
        """When the next frame may leave. What was sent ahead is played while nothing is sent: after a pause there is
        nothing to catch up with, and no more lead than ever."""
        if self._lead_s is None:
            return now
        return max(self._played_until, now) - self._lead_s if self.sent else now

    def _tick(self, now: float) -> None:
        if not self.paused and self._due(now) <= now + self._ticker.slack_s:
            self._settle()

    async def _wake(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _settle(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _note(self) -> None:
        self.moved = asyncio.get_running_loop().time()
        self._settle()

    def _silence(self) -> None:
        self._frames.clear()
        if self._thaw is not None:
            self._thaw.cancel()
        for task in (self._preparing, self._maker):
            if task is not None:
                task.cancel()
        if self._caller is not None and self._cut is None:
            self._cut = asyncio.get_running_loop().call_later(self._unread_s, self._caller.cancel)
        self._settle()

    async def _make(self, pieces: AsyncGenerator[str, None], say: Say) -> None:
        try:
            async with aclosing(pieces):
                await self._speak(pieces, say)
            if not self.text:
                raise Refused("there is nothing to say: send at least one word")
            self._add(self._sound.finish())
        except Exception as error:
            self._failure = self._failure or error
            self._add(self._sound.finish())  # what was made before is heard
        finally:
            if self._thaw is not None:
                self._thaw.cancel()
            self._sound.close()
            self._complete = True
            self._settle()

    async def _speak(self, pieces: AsyncGenerator[str, None], say: Say) -> None:
        async for piece in pieces:
            self.text = (self.text + piece)[:_KEPT_TEXT]
            async with aclosing(say(piece)) as chunks:
                async for chunk in chunks:
                    self._add(self._sound.voice(chunk.rate, chunk.level))
                    self._add(self._sound.push(chunk.samples))
                    if self._sound.cold and self._thaw is None:
                        self._thaw = asyncio.get_running_loop().call_later(_THAW_S, self._thaw_now)
                    while len(self._frames) >= self._hot:
                        self._room.clear()
                        await self._room.wait()

    def _thaw_now(self) -> None:
        if self._sound.cold:
            self._add(self._sound.thaw())

    def _add(self, frames: list[bytes]) -> None:
        if frames:
            self._frames.extend(frames)
            self._settle()
