"""The app on a real port, with fakes behind it, and the official client in front."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import av
import httpx2
import numpy as np
import soundfile
from openai import AsyncOpenAI

from gateway.audio.pcm import Int16
from gateway.listen.asr import AsrError, HeardWord
from gateway.listen.transcriber import AsrModel, Passage, Wanted
from gateway.openai_audio.app import OpenAiAudio
from gateway.settings import Settings
from gateway.telemetry.http_server import serve_http
from tests.support.fakes import FakeTts


@dataclass
class FakeTranscriber:
    """A passage for every second of audio, of two words; partials one word at a time where they are wanted."""

    wanted: list[Wanted] = field(default_factory=list)
    heard_s: list[float] = field(default_factory=list)
    error: AsrError | None = None
    """Raised after `passages`."""
    passages: int = 1_000
    released: int = 0
    wait: asyncio.Event | None = None
    """Before the first passage."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def transcribe(self, audio: AsyncIterator[bytes], wanted: Wanted) -> AsyncGenerator[Passage, None]:
        self.wanted.append(wanted)
        self.heard_s.append(0.0)
        number = len(self.heard_s) - 1
        said = 0
        self.begun.set()
        try:
            if self.wait is not None:
                await self.wait.wait()
            if self.error is not None and not self.passages:
                raise self.error
            async for pcm in audio:
                self.heard_s[number] += len(pcm) / 32_000
                while said < min(int(self.heard_s[number] + 1e-6), self.passages):
                    start = said * 1000
                    words = (
                        HeardWord(f"word{said}", start + 100, start + 400),
                        HeardWord("again", start + 500, start + 900),
                    )
                    if wanted.partials:
                        yield Passage(f"word{said}", False, len(f"word{said}"))
                        yield Passage(f"word{said} ageing", False, len(f"word{said} "))
                    said += 1
                    yield Passage(f"word{said - 1} again", True, 0, words, 0.5, float(said))
                if self.error is not None and said >= self.passages:
                    raise self.error
        finally:
            self.released += 1

    async def models(self) -> list[AsrModel]:
        return [AsrModel("asr_fake", ("en-US",)), AsrModel("asr_german", ("de-DE",))]

    async def close(self) -> None: ...


class Scene:
    def __init__(self, **ours: Any) -> None:
        self.tts = FakeTts()
        self.tts.first_s = self.tts.chunk_s = 0.0
        self.asr = FakeTranscriber()
        self.admitting = True
        self.port = 0
        self._clients: list[AsyncOpenAI] = []
        self.app = OpenAiAudio(
            Settings(openai_audio=cast(Any, ours)), self.tts, self.asr, admitting=self._admits
        )

    async def _admits(self) -> bool:
        return self.admitting

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def client(self, key: str = "any") -> AsyncOpenAI:
        made = AsyncOpenAI(
            base_url=self.url,
            api_key=key,
            max_retries=0,
            timeout=10,
            http_client=httpx2.AsyncClient(verify=False),  # reading the CAs takes longer than most tests
        )
        self._clients.append(made)
        return made

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


@asynccontextmanager
async def scene(**ours: Any) -> AsyncIterator[Scene]:
    """ours: of the section `openai_audio`. Everything that was begun must have been released at the end."""
    made = Scene(**ours)
    server = serve_http(made.app, "127.0.0.1", 0)
    made.port = await server.start()
    try:
        yield made
    finally:
        await made.close()
        await server.stop()
    assert made.tts.released == made.tts.streams
    assert made.asr.released == len(made.asr.heard_s)


@asynccontextmanager
async def http(scene: Scene) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=scene.url, timeout=10, verify=False) as client:
        yield client


def tone(seconds: float, rate: int = 16_000, level: float = 0.25) -> Int16:
    t = np.arange(int(seconds * rate)) / rate
    samples: Int16 = (level * 32767 * np.sin(2 * np.pi * 440 * t)).astype(np.int16)
    return samples


def wav(seconds: float, rate: int = 16_000, channels: int = 1) -> bytes:
    file = io.BytesIO()
    samples = tone(seconds, rate)
    soundfile.write(file, np.stack([samples] * channels, 1), rate, format="WAV")
    return file.getvalue()


def decode(data: bytes) -> tuple[Int16, int]:
    """Samples [n] and their rate, of any file."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="s16", layout="mono", rate=stream.rate)
        frames = [f for frame in container.decode(stream) for f in resampler.resample(frame)]
        frames += resampler.resample(None)
        return np.concatenate([f.to_ndarray().ravel() for f in frames]), stream.rate


def level_dbfs(samples: Int16) -> float:
    """RMS."""
    return float(10 * np.log10(np.mean((samples / 32768.0) ** 2) + 1e-12))
