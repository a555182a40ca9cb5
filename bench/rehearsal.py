"""Turns in virtual time: the gateway with its detector and the real recogniser's engine, parts as slow as they are told.

The engine is pocketsphinx in the model's own settings, fed 160 ms at a time as Triton feeds it; what it
takes to decode is not counted, the delays given are. So a setting is tried over hundreds of turns in a
minute, and what it changes is not lost in the noise of a busy machine.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from bench.virtual import _Client
from bench.words import _model
from gateway.audio.pcm import to_float
from gateway.cli.client import VoiceClient
from gateway.listen.asr import HeardWord, Hypothesis
from gateway.listen.silero import SileroVad
from gateway.session import events as ev
from gateway.session.manager import Sessions
from gateway.settings import Settings
from gateway.speak.tts import Chunk
from gateway.telemetry.metrics import Metrics
from gateway.think.llm import Message, ToolOffer, ToolRequest

_CHUNK_BYTES = 2 * 2_560
_PARTIAL_S = 0.015
"""A chunk's way to Triton and back, as measured with the embedded stack."""
_RATE = 24_000


@dataclass(frozen=True, slots=True)
class Delays:
    """Of the parts, ms."""

    final: float
    """End of the audio → final transcript."""
    first_token: float
    first_sentence: float
    """Both from the request."""
    first_chunk: float


ONE = Delays(40, 126, 138, 78)
"""The averages that NVIDIA publishes for the parts of its voice agent blueprint, one stream."""
MANY = Delays(67, 156, 386, 110)
"""The same, 64 streams."""


Heard = tuple[tuple[str, int, int], ...]
"""(word, start, end in ms), …"""


class Engine:
    """The recogniser; what it has recognised once it knows."""

    def __init__(self) -> None:
        self._model = _model()
        self._decoders: list[Any] = []
        self.known: dict[bytes, Heard] = {}

    def open(self) -> Utterance:
        return Utterance(self)

    def take(self) -> Any:
        return self._decoders.pop() if self._decoders else self._model.load_decoder()

    def give_back(self, decoder: Any) -> None:
        self._decoders.append(decoder)

    def utterance(self, decoder: Any) -> Any:
        return self._model.Utterance(decoder)


class Utterance:
    """One stream of chunks; a decoder runs only for what is not known."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._chunks: list[bytes] = []
        self._fed = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._decoder: Any = None
        self._utterance: Any = None

    def feed(self, chunk: bytes) -> Heard:
        """The words so far."""
        self._chunks.append(chunk)
        self._hash.update(chunk)
        key = self._hash.digest()
        if key not in self._engine.known:
            self._catch_up()
            self._engine.known[key] = _plain(self._utterance.partial()[0])
        return self._engine.known[key]

    def finish(self, rest: bytes) -> Heard:
        """The final words, with the last, shorter chunk."""
        self._chunks.append(rest)
        self._hash.update(rest + b"end")
        key = self._hash.digest()
        if key not in self._engine.known:
            self._catch_up()
            self._engine.known[key] = _plain(self._utterance.finish())
            self._utterance = None
        return self._engine.known[key]

    def _catch_up(self) -> None:
        if self._utterance is None:
            self._decoder = self._engine.take()
            self._utterance = self._engine.utterance(self._decoder)
        for chunk in self._chunks[self._fed :]:
            self._utterance.feed(to_float(chunk))
            if self._fed + 1 < len(self._chunks):
                self._utterance.partial()  # it remembers what it said
            self._fed += 1

    def close(self) -> None:
        if self._utterance is not None:
            self._utterance.finish()
        if self._decoder is not None:
            self._engine.give_back(self._decoder)


def _plain(words: Any) -> Heard:
    return tuple((word.text, word.start_ms, word.end_ms) for word in words)


class _Recognizer:
    def __init__(self, engine: Engine, delays: Delays) -> None:
        self._engine, self._delays = engine, delays

    async def recognize(
        self, audio: AsyncIterator[bytes], *, language: str, hints: Sequence[str] = ()
    ) -> AsyncIterator[Hypothesis]:
        utterance = self._engine.open()
        try:
            rest = b""
            async for pcm in audio:
                rest += pcm
                while len(rest) >= _CHUNK_BYTES:
                    chunk, rest = rest[:_CHUNK_BYTES], rest[_CHUNK_BYTES:]
                    await asyncio.sleep(_PARTIAL_S)
                    yield _hypothesis(utterance.feed(chunk), final=False)
            await asyncio.sleep(self._delays.final / 1000)
            yield _hypothesis(utterance.finish(rest), final=True)
        finally:
            utterance.close()

    async def check(self) -> None: ...

    async def close(self) -> None: ...


def _hypothesis(words: Heard, *, final: bool) -> Hypothesis:
    text = " ".join(word for word, _, _ in words)
    return Hypothesis(text, final, len(text) if final else 0, tuple(HeardWord(*word) for word in words))


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

    async def synthesize(
        self, text: str, *, voice: str = "", language: str = ""
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
    """`async with Rehearsal(engine, delays, turn={...}) as gateway:`; `gateway.call` makes a client of it."""

    def __init__(self, engine: Engine, delays: Delays, **settings: Any) -> None:
        self._vad = SileroVad()
        self.llm, self.voice = _Llm(delays), _Voice(delays)
        self.registry = CollectorRegistry()
        self._sessions = Sessions(
            Settings(**settings),
            _Recognizer(engine, delays),
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
