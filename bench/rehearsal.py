"""Turns in virtual time: the gateway with its detector, parts as slow as they are told, a recogniser that errs not.

So a setting is tried over hundreds of turns in a minute, and what it changes is not lost in the noise of
a busy machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from bench.pauses import Line
from bench.virtual import _Client
from gateway.cli.client import VoiceClient
from gateway.listen.asr import Hypothesis
from gateway.listen.silero import SileroVad
from gateway.session import events as ev
from gateway.session.manager import Sessions
from gateway.settings import Settings
from gateway.speak.tts import Chunk, VoiceModel
from gateway.telemetry.metrics import Metrics
from gateway.think.llm import Message, ToolOffer, ToolRequest

_RATE = 24_000


@dataclass(frozen=True, slots=True)
class Delays:
    """Of the parts, ms."""

    final: float
    """End of the audio → final transcript; a word is told as long after its end before that."""
    first_token: float
    first_sentence: float
    """Both from the request."""
    first_chunk: float


ONE = Delays(40, 126, 138, 78)
"""The averages that NVIDIA publishes for the parts of its voice agent blueprint, one stream."""
MANY = Delays(67, 156, 386, 110)
"""The same, 64 streams."""


_PRE_ROLL_S = 0.5


class Script:
    """A `Recognizer` that knows what is being said: each word comes when it was heard."""

    def __init__(self, delays: Delays) -> None:
        self._delays = delays
        self._words: list[tuple[str, float]] = []

    def say(self, line: Line) -> None:
        """From now on."""
        now = asyncio.get_running_loop().time()
        self._words = [(word, now + end) for word, end in line.words]

    async def recognize(
        self, audio: AsyncIterator[bytes], *, language: str, hints: Sequence[str] = ()
    ) -> AsyncIterator[Hypothesis]:
        loop = asyncio.get_running_loop()
        began, told = loop.time(), ""
        async for _ in audio:
            heard = self._heard(began, loop.time() - self._delays.final / 1000, final=False)
            if heard.text != told:
                told = heard.text
                yield heard
        ended = loop.time()
        await asyncio.sleep(self._delays.final / 1000)
        yield self._heard(began, ended, final=True)

    def _heard(self, since: float, until: float, *, final: bool) -> Hypothesis:
        words = [word for word, end in self._words if since - _PRE_ROLL_S < end <= until]
        return Hypothesis(" ".join(words), final)

    async def check(self) -> None: ...

    async def close(self) -> None: ...


class _Llm:
    """One sentence in the time given, then two more at 60 tokens/s."""

    def __init__(self, delays: Delays) -> None:
        self._delays = delays
        self.requests = 0

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolOffer] = ()
    ) -> AsyncGenerator[str | ToolRequest, None]:
        self.requests += 1
        await asyncio.sleep(self._delays.first_token / 1000)
        yield "Of"
        await asyncio.sleep((self._delays.first_sentence - self._delays.first_token) / 1000)
        yield " course, I can do that."
        for word in [
            "",
            "Is",
            "there",
            "anything",
            "else",
            "that",
            "you",
            "want",
            "me",
            "to",
            "do",
            "for",
            "you?",
            "I",
            "am",
            "all",
            "yours.",
        ][1:]:
            await asyncio.sleep(1 / 60)
            yield f" {word}"

    def warm_up(self, messages: Sequence[Message] = (), tools: Sequence[ToolOffer] = ()) -> None: ...

    async def check(self) -> None: ...

    async def close(self) -> None: ...


class _Voice:
    """60 ms of tone a character, ten times as fast as it is heard."""

    def __init__(self, delays: Delays) -> None:
        self._delays = delays
        self.made_s = 0.0

    async def models(self) -> list[VoiceModel]:
        return []

    async def synthesize(
        self, text: str, *, voice: str = "", language: str = "", speed: float = 1.0, model: str = ""
    ) -> AsyncGenerator[Chunk, None]:
        await asyncio.sleep(self._delays.first_chunk / 1000)
        for _ in range(-(-60 * len(text) // 100)):
            self.made_s += 0.1
            yield Chunk(_TONE, _RATE)
            await asyncio.sleep(0.01)

    async def check(self) -> None: ...

    async def close(self) -> None: ...


_TONE = (6000 * np.sin(2 * np.pi * 300 * np.arange(_RATE // 10) / _RATE)).astype("<i2").tobytes()


class Rehearsal:
    """`async with Rehearsal(delays, turn={...}) as gateway:`; `gateway.call` makes a client of it."""

    def __init__(self, delays: Delays, **settings: Any) -> None:
        self._vad = SileroVad()
        self.script = Script(delays)
        self.llm, self.voice = _Llm(delays), _Voice(delays)
        self.registry = CollectorRegistry()
        self._sessions = Sessions(
            Settings(**({"echo": {"enabled": False}} | settings)),
            self.script,
            self.llm,
            self.voice,
            self._vad,
            Metrics(self.registry),
        )

    async def __aenter__(self) -> Rehearsal:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._sessions.drain(0.0)
        await self._vad.close()

    def call(self, hello: ev.Hello, keep_audio: bool) -> VoiceClient:
        return _Client(self._sessions, hello, keep_audio)

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0
