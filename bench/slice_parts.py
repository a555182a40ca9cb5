"""What stands in a slice of the gateway for the rest of it: bare sessions, and parts that answer within the
process."""

from __future__ import annotations

import asyncio
import functools
import itertools
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from uuid import uuid4

import grpc.aio
import numpy as np

from gateway.listen.asr import RATE, Hypothesis
from gateway.listen.ear import Ear
from gateway.listen.silero import SileroVad
from gateway.session import events as ev
from gateway.settings import Settings
from gateway.speak.playout import Playout
from gateway.speak.ticker import Ticker
from gateway.speak.tts import Chunk, VoiceModel
from gateway.think.llm import Message, ToolOffer, ToolRequest
from load.emulators.profile import TtsProfile
from load.emulators.scripts import REPLIES, TRANSCRIPTS
from load.emulators.voice import cut, start_of

SPURT_S, EVERY_S = 1.0, 2.5
"""A bare session speaks for so long out of so long: 40 % of the time."""
CALL_BYTES = 2 * RATE * 160 // 1000
"""Audio of one unary call."""
METHOD = "/parley.bench.Upstream/Hear"
_CALL_S = 5.0
_MOST_CALLS = 4_096
_GOLDEN = 0.618


class Upstream:
    """Unary calls with a piece of audio each. The first that fails ends the process: a run with fewer calls
    than it says is none."""

    def __init__(self, address: str, failed: asyncio.Event) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(METHOD)
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, pcm: bytes) -> None:
        if len(self._tasks) >= _MOST_CALLS:
            self._fail(f"{_MOST_CALLS} unary calls wait for their answers")
            return
        task = asyncio.create_task(self._hear(pcm))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hear(self, pcm: bytes) -> None:
        try:
            await self._call(pcm, timeout=_CALL_S)
        except grpc.aio.AioRpcError as error:
            self._fail(f"a unary call failed: {error.code().name}")

    def _fail(self, why: str) -> None:
        if not self._failed.is_set():
            print(why, file=sys.stderr, flush=True)
            self._failed.set()

    async def close(self) -> None:
        await self._channel.close(None)


class BareSessions:
    """In the place of `Sessions`: who is connected is heard, and spoken to, and nothing is understood."""

    def __init__(self, settings: Settings, vad: SileroVad | None, upstream: Upstream | None) -> None:
        self._settings, self._vad, self._upstream = settings, vad, upstream
        self._ticker = Ticker(settings.playout.tick_ms)
        self._numbers = itertools.count()

    async def serve(self, connection: ev.Connection) -> None:
        session = _BareSession(connection, self._settings, self._ticker)
        if self._vad is not None:
            session.listen(self._vad, self._settings, self._upstream)
        await session.run(next(self._numbers) * _GOLDEN % 1.0 * EVERY_S)


class _BareSession:
    def __init__(self, connection: ev.Connection, settings: Settings, ticker: Ticker) -> None:
        self._connection = connection
        self._ear: Ear | None = None
        self._reply_id = ""
        self._piece = bytearray()
        self._upstream: Upstream | None = None
        self._playout = Playout(
            ticker,
            rate=connection.hello.output_rate,
            lead_ms=settings.playout.lead_ms,
            buffer_s=settings.playout.buffer_s,
            loudness_dbfs=settings.playout.loudness_dbfs,
            send=self._send,
            on_mark=lambda _: None,
            on_heard=self._spoken,
        )

    def listen(self, vad: SileroVad, settings: Settings, upstream: Upstream | None) -> None:
        rate = self._connection.hello.input_rate
        self._ear = Ear(vad, settings.vad, input_rate=rate, guard=None, gate=None, on_window=lambda _: None)
        if upstream is not None:
            self._upstream, self._ear.tap = upstream, self._collect

    async def run(self, first_s: float) -> None:
        hello = self._connection.hello
        self._connection.send(ev.Ready(uuid4().hex, hello.input_rate, hello.output_rate, "en-US", ""))
        talking = asyncio.create_task(self._talk(first_s, hello.output_rate))
        ear = self._ear
        try:
            async for event in self._connection.events():
                if isinstance(event, ev.AudioIn):
                    if ear is not None:
                        ear.feed(event.pcm)
                elif isinstance(event, ev.Close):
                    break
        except ConnectionError:
            pass
        finally:
            talking.cancel()
            self._playout.drop()
            if ear is not None:
                ear.close()
            self._connection.send(ev.Closed("client"))

    async def _talk(self, first_s: float, rate: int) -> None:
        await asyncio.sleep(first_s)
        begun = asyncio.get_running_loop().time()
        for number in itertools.count(1):
            self._reply_id = uuid4().hex
            track = self._playout.start()
            await track.write(Chunk(audio(rate, "spurt", SPURT_S), rate))
            track.finish()
            await asyncio.sleep(begun + number * EVERY_S - asyncio.get_running_loop().time())

    def _send(self, generation: int, sequence: int, offset_ms: int, pcm: bytes) -> None:
        self._connection.send(ev.ReplyAudio(self._reply_id, generation, sequence, offset_ms, pcm))

    def _spoken(self) -> None:
        self._connection.send(
            ev.ReplyDone(self._reply_id, ev.Outcome.COMPLETED, "", "", self._playout.total_ms, {})
        )

    def _collect(self, pcm: bytes) -> None:
        self._piece += pcm
        if len(self._piece) >= CALL_BYTES:
            assert self._upstream is not None
            self._upstream.send(bytes(self._piece))
            self._piece.clear()


class OwnRecognizer:
    """Hears what the emulated recogniser would: a word for so much audio, the whole at its end."""

    def __init__(self) -> None:
        self._texts = itertools.cycle(TRANSCRIPTS)

    async def recognize(
        self, audio: AsyncIterator[bytes], *, language: str, hints: Sequence[str] = ()
    ) -> AsyncGenerator[Hypothesis, None]:
        text = next(self._texts)
        words = text.split()
        heard, told = 0, 0
        async for pcm in audio:
            heard += len(pcm)
            if (now := min(len(words), heard // (2 * CALL_BYTES))) > told:
                told = now
                yield Hypothesis(" ".join(words[:told]), False)
        yield Hypothesis(text, True, len(text))

    async def check(self) -> None: ...

    async def close(self) -> None: ...


class OwnLlm:
    """Says the emulated model's replies, word by word, at once."""

    def __init__(self) -> None:
        self._replies = itertools.cycle(REPLIES)

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolOffer] = ()
    ) -> AsyncGenerator[str | ToolRequest, None]:
        for word in next(self._replies).split():
            yield f"{word} "

    def warm_up(self, messages: Sequence[Message] = (), tools: Sequence[ToolOffer] = ()) -> None: ...

    async def check(self) -> None: ...

    async def close(self) -> None: ...


class OwnVoice:
    """Makes audio as long as the emulated voice's, in its chunks and at its pace."""

    def __init__(self, rate: int) -> None:
        """rate: Hz of what it makes."""
        self._rate = rate
        self._profile = TtsProfile()

    async def models(self) -> list[VoiceModel]:
        return []

    async def synthesize(
        self, text: str, *, voice: str = "", language: str = "", speed: float = 1.0, model: str = ""
    ) -> AsyncGenerator[Chunk, None]:
        profile = self._profile
        whole = audio(self._rate, text, len(text) * profile.ms_per_char / 1000)
        at, size = 0, 2 * round(self._rate * profile.first_audio_ms / 1000)
        while at < len(whole):
            yield Chunk(whole[at : at + size], self._rate)
            at += size
            size = 2 * round(self._rate * profile.chunk_ms / 1000)
            await asyncio.sleep(profile.rtf * profile.chunk_ms / 1000)

    async def check(self) -> None: ...

    async def close(self) -> None: ...


class Unshaped:
    """In the place of `Shaper`: audio that has the client's rate, and the loudness that is wanted."""

    def __init__(self, output_rate: int, loudness_dbfs: float) -> None: ...

    def push(self, chunk: Chunk) -> bytes:
        return chunk.pcm

    def finish(self) -> bytes:
        return b""

    def close(self) -> None: ...


@functools.cache
def audio(rate: int, text: str, seconds: float) -> bytes:
    """PCM16 like speech; the same for the same text. There are few texts: each is made once."""
    made = cut(rate, start_of(text, rate), round(rate * seconds))
    return (made * np.float32(32_767)).astype("<i2").tobytes()
