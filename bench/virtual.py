"""A gateway and its clients in one process and in virtual time: minutes of conversation in seconds.

Sessions, playout, echo guard, gate and Silero are the real ones; recogniser, LLM and voice are stand-ins
that cost nothing. The wire takes no time and nothing else competes for the machine, so what is measured
is what the design costs: a detector's batch takes the CPU time that it takes here, nothing else does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Executor
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry

from bench.microphone import Float
from gateway.audio.pcm import to_pcm
from gateway.cli.client import Arrival, CallFailed, VoiceClient
from gateway.listen.silero import SileroVad
from gateway.session import events as ev
from gateway.session.manager import Sessions
from gateway.settings import Settings
from gateway.speak.tts import Chunk
from gateway.telemetry.metrics import Metrics
from gateway.think.llm import Message, ToolOffer, ToolRequest
from tests.support.fakes import FakeLlm, FakeRecognizer, FakeTts
from tests.support.virtual_time import VirtualTimeLoop

T = TypeVar("T")
_STORY_S = 60.0
_RATE = 16_000
_CHUNK = _RATE // 10


class Loop(VirtualTimeLoop):
    """Work for other threads is done here and now; its answer comes after the CPU time it took."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        began = time.thread_time()
        try:
            result = func(*args)
        except Exception as error:
            future.set_exception(error)
            return future
        self.call_later(time.thread_time() - began, _answer, future, result)
        return future


def _answer(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(main)


class Storyteller(FakeLlm):
    """An LLM whose every answer is one sentence; the voice makes a minute of it."""

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolOffer] = ()
    ) -> AsyncGenerator[str | ToolRequest, None]:
        await asyncio.sleep(0.05)
        yield "Once upon a time there was a house by the sea."


class Voice(FakeTts):
    """Says whatever it is asked to say as `seconds` of the given speech, at 16 kHz."""

    def __init__(self, speech: Float, seconds: float) -> None:
        super().__init__()
        self._speech, self._seconds = speech, seconds

    async def synthesize(
        self, text: str, *, voice: str = "", language: str = "", speed: float = 1.0, model: str = ""
    ) -> AsyncGenerator[Chunk, None]:
        at = 0
        while at < self._seconds * _RATE:
            piece: Float = np.take(self._speech, np.arange(at, at + _CHUNK), mode="wrap")
            at += _CHUNK
            yield Chunk(to_pcm(piece), _RATE)
            await asyncio.sleep(0.02)


class Gateway:
    """`async with Gateway(speech, gate={"enabled": False}) as gateway:`; `gateway.call` makes a client of it."""

    def __init__(self, speech: Float, *, story_s: float = _STORY_S, **settings: Any) -> None:
        """speech: what every reply is made of, `story_s` long."""
        self.registry = CollectorRegistry()
        self._vad = SileroVad()
        self._sessions = Sessions(
            Settings(**settings),
            FakeRecognizer(),
            Storyteller(),
            Voice(speech, story_s),
            self._vad,
            Metrics(self.registry),
        )

    async def __aenter__(self) -> Gateway:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._sessions.drain(0.0)
        await self._vad.close()

    def call(self, hello: ev.Hello, keep_audio: bool) -> VoiceClient:
        return _Client(self._sessions, hello, keep_audio)

    def count(self, name: str, **labels: str) -> int:
        return int(self.registry.get_sample_value(name, labels) or 0)


class _Client(VoiceClient):
    """The same client, without a wire; also the connection that its session sees."""

    def __init__(self, sessions: Sessions, hello: ev.Hello, keep_audio: bool) -> None:
        super().__init__("here", hello, keep_audio=keep_audio)
        self._sessions = sessions
        self._in: asyncio.Queue[ev.ClientEvent | None] = asyncio.Queue()
        self._out: asyncio.Queue[Arrival] = asyncio.Queue()
        self._serving: asyncio.Task[None] | None = None

    async def connect(self) -> ev.Ready:
        self._serving = asyncio.create_task(self._sessions.serve(_Wire(self.hello, self._in, self._out)))
        first = (await self._out.get()).event
        assert isinstance(first, ev.Ready)
        return first

    async def send(self, event: Any) -> None:
        if self._serving is None or self._serving.done():
            raise CallFailed("the session is over")
        self._in.put_nowait(event)

    async def end_input(self) -> None:
        self._in.put_nowait(None)

    async def close(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait({self._serving})

    async def _receive(self) -> Arrival | None:
        arrival = await self._out.get()
        return None if isinstance(arrival.event, ev.Closed) else arrival


class _Wire:
    def __init__(
        self, hello: ev.Hello, incoming: asyncio.Queue[ev.ClientEvent | None], out: asyncio.Queue[Arrival]
    ) -> None:
        self.hello, self._in, self._out = hello, incoming, out

    async def events(self) -> AsyncIterator[ev.ClientEvent]:
        while (event := await self._in.get()) is not None:
            yield event

    def send(self, event: ev.ServerEvent) -> None:
        self._out.put_nowait(Arrival(asyncio.get_running_loop().time(), event))

    def backlog_ms(self) -> int:
        return 0

    async def drained(self) -> None: ...
