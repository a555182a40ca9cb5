"""Parts of a session for tests in virtual time: scripted, deterministic, and they keep a diary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gateway.audio.pcm import to_float
from gateway.listen.asr import AsrError, Hypothesis
from gateway.listen.vad import WINDOW
from gateway.session import events as ev
from gateway.speak.tts import Chunk, TtsError, VoiceModel
from gateway.think.llm import LlmError, Message, ToolOffer, ToolRequest

E = TypeVar("E", bound=ev.ServerEvent)
RATE = 16_000


def speech(ms: float, level: float = 0.3) -> bytes:
    """Audio that the fake detector takes for speech: PCM16 at 16 kHz."""
    return np.full(int(RATE * ms / 1000), int(level * 32767), dtype="<i2").tobytes()


def silence(ms: float) -> bytes:
    return bytes(2 * int(RATE * ms / 1000))


class FakeVadStream:
    def __init__(self, on_probability: Callable[[float], None], vad: FakeVad) -> None:
        self._on_probability, self._vad = on_probability, vad

    def push(self, window: npt.NDArray[np.float32]) -> None:
        if window.shape != (WINDOW,):
            raise ValueError(f"a window has {WINDOW} samples")
        voiced = float(np.mean(np.abs(window) > 0.05))
        asyncio.get_running_loop().call_soon(self._answer, 0.95 if voiced >= 0.5 else 0.02)

    def push_pcm(self, samples: npt.NDArray[np.int16]) -> None:
        self.push(samples.astype(np.float32) / 32768)

    def push_silence(self) -> bool:
        self.push(np.zeros(WINDOW, np.float32))
        return False

    def _answer(self, probability: float) -> None:
        if self in self._vad.open_streams:
            self._on_probability(probability)

    def close(self) -> None:
        self._vad.open_streams.discard(self)


class FakeVad:
    """Loud is speech."""

    def __init__(self) -> None:
        self.open_streams: set[FakeVadStream] = set()
        self.backlog_ms = 0.0

    def open(self, on_probability: Callable[[float], None]) -> FakeVadStream:
        stream = FakeVadStream(on_probability, self)
        self.open_streams.add(stream)
        return stream

    async def close(self) -> None: ...


class FakeRecognizer:
    """Says the next of `scripts` word by word, a word per 200 ms of loud audio, then the whole as final."""

    def __init__(self, *scripts: str) -> None:
        self.scripts = list(scripts)
        self.streams = 0
        self.released = 0
        self.fail: list[AsrError] = []
        """Raised by the next tries, one each, after `fail_after_ms` of audio."""
        self.fail_after_ms = 0
        self.deaf = False
        """Takes audio and never answers."""
        self.final_delay_s = 0.02
        self.audio_ms: list[float] = []
        """Length of the audio of each try."""
        self.heard: list[bytes] = []
        self.languages: list[str] = []

    async def recognize(
        self, audio: AsyncIterator[bytes], *, language: str, hints: Sequence[str] = ()
    ) -> AsyncIterator[Hypothesis]:
        self.streams += 1
        self.languages.append(language)
        number = len(self.audio_ms)
        self.audio_ms.append(0.0)
        self.heard.append(b"")
        script: list[str] | None = None
        failure = self.fail.pop(0) if self.fail else None
        loud_ms, said = 0.0, 0
        try:
            async for pcm in audio:
                self.audio_ms[number] += len(pcm) / 32
                self.heard[number] += pcm
                if failure is not None and self.audio_ms[number] >= self.fail_after_ms:
                    raise failure
                loud_ms += float(np.count_nonzero(np.abs(to_float(pcm)) > 0.05)) / 16
                if script is None and loud_ms:
                    script = (self.scripts.pop(0) if self.scripts else "").split()
                while script and said < min(len(script), int(loud_ms // 200)) and not self.deaf:
                    said += 1
                    yield Hypothesis(" ".join(script[:said]), final=False)
            if failure is not None:
                raise failure
            if self.deaf:
                await asyncio.Event().wait()
            await asyncio.sleep(self.final_delay_s)
            yield Hypothesis(" ".join(script or []), final=True)
        finally:
            self.released += 1

    async def check(self) -> None: ...

    async def close(self) -> None: ...


class FakeLlm:
    """Answers with the next of `replies` (a list of tokens), `first_s` to the first and `token_s` between."""

    def __init__(self, *replies: Sequence[str | ToolRequest | Exception]) -> None:
        self.replies = list(replies)
        self.first_s, self.token_s = 0.05, 0.01
        self.prompts: list[list[Message]] = []
        self.tools: list[list[str]] = []
        self.streams = 0
        self.closed = 0
        self.tokens = 0
        self.warmed: list[list[Message]] = []

    def warm_up(self, messages: Sequence[Message] = (), tools: Sequence[ToolOffer] = ()) -> None:
        self.warmed.append(list(messages))

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolOffer] = ()
    ) -> AsyncGenerator[str | ToolRequest, None]:
        self.prompts.append(list(messages))
        self.tools.append([tool.name for tool in tools])
        self.streams += 1
        reply = self.replies.pop(0) if self.replies else ["All right."]
        try:
            await asyncio.sleep(self.first_s)
            for token in reply:
                if isinstance(token, Exception):
                    raise token
                self.tokens += 1
                yield token
                await asyncio.sleep(self.token_s)
        finally:
            self.closed += 1

    async def check(self) -> None: ...

    async def close(self) -> None: ...


def tone(sentence: int, ms: int) -> bytes:
    """PCM16 at 24 kHz; whole periods fit into a frame, so pieces join without a step."""
    t = np.arange(24 * ms) / 24_000
    pcm: bytes = (8000 * np.sin(2 * np.pi * (300 + 100 * sentence) * t)).astype("<i2").tobytes()
    return pcm


def sentence_of(pcm: bytes, rate: int) -> int:
    """Which sentence's tone a 20 ms frame carries; −1 for silence."""
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float64)
    if np.abs(samples).max(initial=0) < 200:
        return -1
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.size), 8 * samples.size))
    return round((float(np.argmax(spectrum)) * rate / (8 * samples.size) - 300) / 100)


class FakeTts:
    """A tone per sentence, `ms_per_char` long, in 100 ms chunks, `chunk_s` of work each.

    Every sentence has a pitch of its own, so that what is heard tells which sentence it was.
    """

    def __init__(self) -> None:
        self.ms_per_char = 60.0
        self.chunk_s = 0.01
        self.first_s = 0.03
        self.sentences: list[str] = []
        self.streams = 0
        self.released = 0
        self.chunks = 0
        self.fail: dict[str, int] = {}
        """Sentence → chunks before it fails."""
        self.asked: list[tuple[str, str, float, str]] = []
        """Voice, language, speed and model of each sentence."""
        self.speeds = (1.0, 1.0)

    async def synthesize(
        self, text: str, *, voice: str = "", language: str = "", speed: float = 1.0, model: str = ""
    ) -> AsyncGenerator[Chunk, None]:
        number = len(self.sentences)
        self.sentences.append(text)
        self.asked.append((voice, language, speed, model))
        self.streams += 1
        made = 0
        try:
            await asyncio.sleep(self.first_s)
            left = int(len(text) * self.ms_per_char / speed)
            while left > 0:
                if text in self.fail and made >= self.fail[text]:
                    raise TtsError("the voice broke")
                ms = min(left, 100)
                left -= ms
                made += 1
                self.chunks += 1
                yield Chunk(tone(number, ms), 24_000)
                await asyncio.sleep(self.chunk_s)
        finally:
            self.released += 1

    async def models(self) -> list[VoiceModel]:
        return [VoiceModel("tts_fake", ("en-US",), ("ann", "bob"), (), self.speeds)]

    async def check(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Sent:
    at: float
    """Virtual time, s."""
    event: ev.ServerEvent


class FakeConnection:
    """A list of what was sent, and a queue of what the client says."""

    def __init__(self, hello: ev.Hello | None = None) -> None:
        self.hello = hello or ev.Hello()
        self.sent: list[Sent] = []
        self._closed = asyncio.Event()
        self.inbox: asyncio.Queue[ev.ClientEvent | ConnectionError | None] = asyncio.Queue()

    async def events(self) -> AsyncIterator[ev.ClientEvent]:
        while (event := await self.inbox.get()) is not None:
            if isinstance(event, ConnectionError):
                raise event
            yield event

    def send(self, event: ev.ServerEvent) -> None:
        self.sent.append(Sent(asyncio.get_running_loop().time(), event))
        if isinstance(event, ev.Closed):
            self._closed.set()

    def backlog_ms(self) -> int:
        return 0

    async def drained(self) -> None: ...

    # ---- the client's side ----

    def put(self, event: ev.ClientEvent) -> None:
        self.inbox.put_nowait(event)

    async def play(self, *pieces: bytes) -> None:
        """Audio at real time, in 20 ms frames."""
        for pcm in pieces:
            for at in range(0, len(pcm), 640):
                self.put(ev.AudioIn(pcm[at : at + 640]))
                await asyncio.sleep(min(len(pcm) - at, 640) / 32_000)

    async def until(self, kind: type[E], *, count: int = 1, within_s: float = 60.0) -> E:
        """The count-th event of a kind, silence being played while waiting for it."""
        async with asyncio.timeout(within_s):
            while True:
                found = self.of(kind)
                if len(found) >= count:
                    return found[count - 1]
                await self.play(silence(20))

    async def closed(self, within_s: float = 60.0) -> ev.Closed:
        """The last event, the client doing nothing while waiting for it."""
        async with asyncio.timeout(within_s):
            await self._closed.wait()
        return self.of(ev.Closed)[0]

    def of(self, kind: type[E]) -> list[E]:
        return [s.event for s in self.sent if isinstance(s.event, kind)]

    def at(self, event: ev.ServerEvent) -> float:
        return next(s.at for s in self.sent if s.event is event)

    @property
    def states(self) -> list[ev.State]:
        return [e.state for e in self.of(ev.StateChanged)]

    def heard(self, reply_id: str | None = None) -> list[int]:
        """Which sentence each frame sent carries (numbers of the FakeTts)."""
        return [
            sentence_of(e.pcm, self.hello.output_rate)
            for e in self.of(ev.ReplyAudio)
            if reply_id in (None, e.reply_id)
        ]

    def stale(self) -> list[ev.ReplyAudio]:
        """Frames sent after their generation was flushed."""
        flushed, found = -1, []
        for s in self.sent:
            if isinstance(s.event, ev.Flushed):
                flushed = max(flushed, s.event.generation)
            elif isinstance(s.event, ev.ReplyAudio) and s.event.generation <= flushed:
                found.append(s.event)
        return found


__all__ = [
    "AsrError",
    "FakeConnection",
    "FakeLlm",
    "FakeRecognizer",
    "FakeTts",
    "FakeVad",
    "LlmError",
    "Sent",
    "silence",
    "speech",
]
