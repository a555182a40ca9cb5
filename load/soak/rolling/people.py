"""Callers who stay for the whole update: they ask, typing or speaking, hear the answer to its end, think, and ask again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.cli.client import CallFailed, VoiceClient
from gateway.cli.microphone import SteadyMicrophone
from gateway.cli.steady import SteadyClient
from gateway.session import events as ev
from load.soak.rolling.counting import ASKED, counted, questions

_THINK_S = (0.3, 1.5)
_PATIENCE_S = 20.0


@dataclass(slots=True)
class Seen:
    """Of one caller, or of all of them together."""

    replies: int = 0
    """Heard to their end."""
    spoken: int = 0
    """Of these, to what was said, not typed."""
    cut: list[str] = field(default_factory=list)
    """How the others ended."""
    forgotten: list[str] = field(default_factory=list)
    """Replies that knew of fewer questions, or of more, than were asked."""
    fresh: int = 0
    """Connections without the history of the one before."""
    failed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)

    def add(self, other: Seen) -> None:
        self.replies += other.replies
        self.spoken += other.spoken
        self.fresh += other.fresh
        for name in ("cut", "forgotten", "failed", "errors", "gaps_s"):
            getattr(self, name).extend(getattr(other, name))


class Person:
    """`await live(address)` until `leave()`."""

    def __init__(self, seed: int, clips: Sequence[bytes] = ()) -> None:
        """clips: PCM16 at 16 kHz, what it says; none: it types."""
        self._chance = random.Random(seed)
        self._clips = clips
        self._microphone: SteadyMicrophone | None = None
        self._asked = self._known = 0
        self._leaving = False
        self._heard = ""
        self._done: ev.ReplyDone | None = None
        self._news = asyncio.Event()
        self.seen = Seen()
        self.present = asyncio.Event()
        """A first reply was heard."""

    def leave(self) -> None:
        """After the reply that is being heard."""
        self._leaving = True

    async def live(self, address: str) -> None:
        def make(hello: ev.Hello, connect_s: float) -> VoiceClient:
            return VoiceClient(address, hello, connect_s=connect_s, keep_audio=False)

        try:
            async with SteadyClient(make, ev.Hello(output_rate=16_000)) as client:
                reading = asyncio.create_task(self._read(client))
                if self._clips:
                    self._microphone = SteadyMicrophone(client)
                    self._microphone.start()
                try:
                    await self._talk(client)
                    if self._microphone is not None:
                        await self._microphone.stop()
                    await client.hang_up()
                    async with asyncio.timeout(_PATIENCE_S):
                        await reading
                finally:
                    if self._microphone is not None:
                        await self._microphone.stop()
                    reading.cancel()
                    await asyncio.wait({reading})
                    self.seen.gaps_s = client.gaps_s
        except CallFailed as failure:
            self.seen.failed.append(str(failure))
        except TimeoutError:
            self.seen.failed.append("no answer came")
        finally:
            self.present.set()

    async def _talk(self, client: SteadyClient) -> None:
        while not self._leaving:
            self._heard, self._done = "", None
            if self._microphone is None:
                self._asked += 1
                await client.send(ev.TextIn(f"{ASKED} {self._asked}"))
            else:
                await self._microphone.say(self._chance.choice(self._clips))
            async with asyncio.timeout(_PATIENCE_S):
                while self._done is None:
                    self._news.clear()
                    await self._news.wait()
            if self._done.outcome is ev.Outcome.COMPLETED:
                self.seen.replies += 1
                self.seen.spoken += self._microphone is not None
                if counted(self._heard) != self._known:
                    self.seen.forgotten.append(f"{self._known} asked, {self._heard!r}")
            else:
                self.seen.cut.append(str(self._done.outcome))
            self.present.set()
            await asyncio.sleep(self._chance.uniform(*_THINK_S))

    async def _read(self, client: SteadyClient) -> None:
        async for arrival in client:
            match arrival.event:
                case ev.Ready(resumed=resumed):
                    self.seen.fresh += not resumed
                case ev.Transcript(text=text, final=True):
                    self._asked += questions(text)
                case ev.ReplyStarted():
                    self._heard, self._known = "", self._asked
                case ev.ReplyText(text=text):
                    self._heard += text
                case ev.ReplyDone() as done:
                    self._done = done
                    self._news.set()
                case ev.Error(message=message):
                    self.seen.errors.append(message)
