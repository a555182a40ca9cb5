"""One client of a measurement: a session with a microphone and a record of everything that came."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

import numpy as np

from bench.microphone import Microphone, Source
from gateway.cli.client import Arrival, CallFailed, VoiceClient
from gateway.cli.player import Player
from gateway.session import events as ev

E = TypeVar("E")
Address = str | Callable[[ev.Hello, bool], VoiceClient]
"""host:port, or what makes a client of (hello, whether to keep the audio)."""
OUT_RATE = 24_000
_LOUD = 32768 * 10 ** (-45 / 20)


@dataclass(slots=True)
class Heard:
    """A reply as it came. Times are the loop's, s; None: not yet."""

    reply_id: str
    turn_id: str = ""
    first_at: float | None = None
    """Its first frame arrived."""
    audible_at: float | None = None
    """Its first sound above −45 dBFS began to play."""
    last_at: float | None = None
    """Its last frame so far arrived."""
    dry_at: float | None = None
    """All that came of it has been played by then, if it is not flushed."""
    frames: int = 0
    done: ev.ReplyDone | None = None
    done_at: float | None = None


class Caller:
    """`async with Caller(address) as caller:`; the microphone sends `sources` all the time."""

    def __init__(
        self,
        address: Address,
        *,
        configure: ev.Configure | None = None,
        sources: tuple[Source, ...] = (),
        play_to: Callable[[Player], None] | None = None,
    ) -> None:
        """play_to: gets the player, and takes from its `played` what a loudspeaker plays."""
        hello = ev.Hello(output_rate=OUT_RATE, configure=configure or ev.Configure())
        keep = play_to is not None
        self.client = (
            VoiceClient(address, hello, keep_audio=keep) if isinstance(address, str) else address(hello, keep)
        )
        if play_to is not None:
            play_to(self.client.player)
        self.microphone = Microphone(self.client, sources)
        self.events: list[Arrival] = []
        """All but audio."""
        self.replies: list[Heard] = []
        self._known: dict[str, Heard] = {}
        self._changed = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._over = False

    async def __aenter__(self) -> Caller:
        await self.client.__aenter__()
        self.microphone.start()
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.microphone.stop()
        with contextlib.suppress(CallFailed, TimeoutError):
            async with asyncio.timeout(5):
                await self.client.hang_up("measured")
                if self._reader is not None:
                    await asyncio.wait({self._reader})
        await self.client.close()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)

    async def until(self, condition: Callable[[], E | None], timeout_s: float) -> E | None:
        """What `condition` returns once it is true; None when it is not in time or the session ended."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not (found := condition()):
            if self._over:
                if self._reader is not None and self._reader.done():
                    self._reader.result()  # a fault of this program's own is no result
                return None
            self._changed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                return None
        return found

    def of(self, kind: type[E], since: float = 0.0) -> list[tuple[float, E]]:
        """Events of a kind with their arrival, from a time on."""
        return [(a.at, a.event) for a in self.events if a.at >= since and isinstance(a.event, kind)]

    def reply_after(self, time: float) -> Heard | None:
        """The first reply whose audio began to arrive at or after `time`."""
        return next((r for r in self.replies if r.first_at is not None and r.first_at >= time), None)

    @property
    def speaking(self) -> Heard | None:
        """The last reply, while it is not done."""
        last = self.replies[-1] if self.replies else None
        return last if last is not None and last.done is None else None

    async def quiet(self) -> bool:
        """Cut the reply in the air, if there is one, and wait until it is over."""
        if self.speaking is not None:
            await self.client.send(ev.Cancel())
        return bool(await self.until(lambda: self.speaking is None, 5.0))

    async def _read(self) -> None:
        try:
            async for arrival in self.client:
                self._take(arrival)
                self._changed.set()
        except CallFailed:
            pass
        finally:
            self._over = True
            self._changed.set()

    def _take(self, arrival: Arrival) -> None:
        event = arrival.event
        if isinstance(event, ev.ReplyAudio):
            reply = self._reply(event.reply_id)
            if reply.first_at is None:
                reply.first_at = arrival.at
            if reply.audible_at is None:
                loud = np.flatnonzero(np.abs(np.frombuffer(event.pcm, "<i2").astype(np.int32)) > _LOUD)
                if loud.size:
                    begins = self.client.player.ends_at - len(event.pcm) / (2 * OUT_RATE)
                    reply.audible_at = begins + float(loud[0]) / OUT_RATE
            reply.last_at, reply.dry_at = arrival.at, self.client.player.ends_at
            reply.frames += 1
            return
        self.events.append(arrival)
        if isinstance(event, ev.ReplyStarted):
            self._reply(event.reply_id).turn_id = event.turn_id
        elif isinstance(event, ev.ReplyDone):
            reply = self._reply(event.reply_id)
            reply.done, reply.done_at = event, arrival.at

    def _reply(self, reply_id: str) -> Heard:
        if reply_id not in self._known:
            self._known[reply_id] = Heard(reply_id)
            self.replies.append(self._known[reply_id])
        return self._known[reply_id]
