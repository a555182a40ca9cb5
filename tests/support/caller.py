"""A client of parley.v1 for tests: keeps everything that came, with times, and waits for what must come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from gateway.cli.client import Arrival, CallFailed, VoiceClient
from gateway.session import events as ev
from gateway.tls.client import ClientSecurity
from tests.support.tones import tones_in

E = TypeVar("E", bound=ev.ServerEvent)
FRAME_S = 0.020


@dataclass(frozen=True, slots=True)
class Answer:
    done: ev.ReplyDone
    frames: list[ev.ReplyAudio]
    """Everything heard from the flush on, whatever its label says."""
    first_at: float | None
    """Loop time of the first of them."""
    rate: int
    errors: list[str]
    """What the client was told meanwhile."""

    @property
    def pcm(self) -> bytes:
        return b"".join(frame.pcm for frame in self.frames)

    def tones(self, *known: int) -> list[int]:
        return tones_in(self.frames, known, self.rate)


class Caller:
    """`async with Caller(address) as caller:`; `caller.mark()` names a point in what has come so far."""

    def __init__(
        self,
        address: str,
        *,
        voice: str = "",
        session_id: str = "",
        configure: ev.Configure | None = None,
        security: ClientSecurity | None = None,
        api_key: str = "",
    ) -> None:
        self.rate = 24_000
        self.hello = ev.Hello(
            session_id=session_id, output_rate=self.rate, configure=configure or ev.Configure(voice=voice)
        )
        self.client = VoiceClient(address, self.hello, keep_audio=False, security=security, api_key=api_key)
        self.arrivals: list[Arrival] = []
        self.failed: CallFailed | None = None
        """Why the stream broke; None while it did not."""
        self.over = False
        self._news = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Caller:
        await self.client.connect()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.close()
        if self._reading is not None:
            await asyncio.wait({self._reading})

    async def _read(self) -> None:
        try:
            async for arrival in self.client:
                self.arrivals.append(arrival)
                self._news.set()
        except CallFailed as error:
            self.failed = error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self.failed = CallFailed("cut by this client")
        finally:
            self.over = True
            self._news.set()

    # ---- saying ----

    async def typed(self, text: str) -> int:
        """Returns the mark before anything that this text caused."""
        mark = self.mark()
        await self.client.send(ev.TextIn(text))
        return mark

    async def say(self, text: str) -> int:
        mark = self.mark()
        await self.client.send(ev.Say(text))
        return mark

    async def speak(self, pcm: bytes) -> None:
        """PCM16 at the input rate, at real time, on an absolute schedule."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        size = round(self.hello.input_rate * FRAME_S) * 2
        for number in range(0, len(pcm), size):
            await asyncio.sleep(begin + number / size * FRAME_S - loop.time())
            await self.client.send_audio(pcm[number : number + size])

    # ---- hearing ----

    def mark(self) -> int:
        return len(self.arrivals)

    def since(self, kind: type[E], mark: int = 0) -> list[E]:
        return [a.event for a in self.arrivals[mark:] if isinstance(a.event, kind)]

    def at(self, event: ev.ServerEvent) -> float:
        """Loop time at which it came."""
        return next(a.at for a in self.arrivals if a.event is event)

    async def until(
        self,
        kind: type[E],
        mark: int = 0,
        *,
        where: Callable[[E], bool] | None = None,
        within_s: float = 10.0,
    ) -> E:
        """The first such event since the mark. Raises TimeoutError; AssertionError when the stream ends before it."""
        async with asyncio.timeout(within_s):
            while True:
                self._news.clear()
                found = next(
                    (event for event in self.since(kind, mark) if where is None or where(event)), None
                )
                if found is not None:
                    return found
                assert not self.over, f"no {kind.__name__} came: {self.failed or 'the stream ended'}"
                await self._news.wait()

    async def until_over(self, within_s: float = 10.0) -> CallFailed | None:
        async with asyncio.timeout(within_s):
            while not self.over:
                self._news.clear()
                await self._news.wait()
        return self.failed

    async def heard(self, mark: int, ms: int, within_s: float = 10.0) -> ev.ReplyAudio:
        """The frame with which so much of the first reply after the mark has come."""
        started = await self.until(ev.ReplyStarted, mark, within_s=within_s)
        return await self.until(
            ev.ReplyAudio,
            mark,
            where=lambda frame: frame.reply_id == started.reply_id and frame.offset_ms + 20 >= ms,
            within_s=within_s,
        )

    async def done(self, mark: int, within_s: float = 10.0) -> ev.ReplyDone:
        """The end of the first reply that starts after the mark."""
        started = await self.until(ev.ReplyStarted, mark, within_s=within_s)
        return await self.until(
            ev.ReplyDone, mark, where=lambda done: done.reply_id == started.reply_id, within_s=within_s
        )

    async def ask(self, text: str, within_s: float = 10.0) -> Answer:
        """Type something, interrupting what is spoken, and hear the reply to its end."""
        mark = await self.typed(text)
        done = await self.done(mark, within_s)
        # What was on its way when the question was asked ends with the flush.
        flushes = [i for i, a in enumerate(self.arrivals) if i >= mark and isinstance(a.event, ev.Flushed)]
        frames = self.since(ev.ReplyAudio, flushes[0] if flushes else mark)
        errors = [error.message for error in self.since(ev.Error, mark)]
        return Answer(done, frames, self.at(frames[0]) if frames else None, self.rate, errors)

    def tones(self, *known: int, since: int = 0) -> list[int]:
        """What was heard since the mark: see `tones_in`."""
        return tones_in(self.since(ev.ReplyAudio, since), known, self.rate)

    def lateness_s(self, reply_id: str) -> float:
        """How much later than real time the latest frame of a reply came, from its first one on."""
        times = [
            a.at for a in self.arrivals if isinstance(a.event, ev.ReplyAudio) and a.event.reply_id == reply_id
        ]
        return max(at - times[0] - number * FRAME_S for number, at in enumerate(times))
