"""A real Converse server in this process, with scripted parts or with a scripted session behind it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from gateway.session import events as ev
from gateway.session.manager import Sessions
from gateway.settings import SessionSettings, Settings
from gateway.telemetry.metrics import Metrics
from gateway.transports.voice_grpc import VoiceServer
from tests.support.fakes import FakeLlm, FakeRecognizer, FakeTts, FakeVad, silence, speech

REPLY = "All right, that was quite easy."
Script = Callable[[ev.Connection], Awaitable[None]]


class Talkative(FakeRecognizer):
    """Understands every utterance."""

    async def recognize(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        self.scripts.append("tell me something nice")
        async for hypothesis in super().recognize(*args, **options):
            yield hypothesis


class World:
    """The parts behind the server; a test changes them at will."""

    def __init__(self, **settings: Any) -> None:
        defaults: dict[str, Any] = {"echo": {"enabled": False}, "gate": {"enabled": False}}
        self.settings = Settings(**{**defaults, **settings})
        self.asr, self.llm, self.tts, self.vad = Talkative(), Wordy(), FakeTts(), FakeVad()
        metrics = Metrics(CollectorRegistry())
        self.sessions = Sessions(self.settings, self.asr, self.llm, self.tts, self.vad, metrics)


class Wordy(FakeLlm):
    """Always the same reply, by words."""

    async def stream(self, *args: Any, **options: Any) -> Any:
        if not self.replies:
            self.replies.append([f"{word} " for word in REPLY.split()])
        async for token in super().stream(*args, **options):
            yield token


@asynccontextmanager
async def talking(**settings: Any) -> AsyncIterator[tuple[str, World]]:
    """(host:port, the parts) of a whole gateway whose ASR, LLM, TTS and detector are scripted."""
    world = World(**settings)
    server = VoiceServer(world.sessions, world.settings.session, "127.0.0.1:0")
    address = await server.start()
    try:
        yield address, world
    finally:
        await world.sessions.drain(0.0)
        await server.stop(0.0)


class Scripted:
    def __init__(self, script: Script) -> None:
        self._script = script

    async def serve(self, connection: ev.Connection) -> None:
        await self._script(connection)


@asynccontextmanager
async def scripted(script: Script, **settings: Any) -> AsyncIterator[str]:
    """host:port of a server whose every session does as the script says, right or wrong."""
    server = VoiceServer(Scripted(script), SessionSettings(**settings), "127.0.0.1:0")
    address = await server.start()
    try:
        yield address
    finally:
        await server.stop(0.0)


def make_clips(folder: Path, *, speech_ms: int = 600) -> Path:
    """A manifest of one clip that the scripted detector takes for speech."""
    pcm = silence(100) + speech(speech_ms) + silence(60)
    (folder / "clip.pcm").write_bytes(pcm)
    entry = {"file": "clip.pcm", "onset_ms": 100, "end_ms": 100 + speech_ms, "duration_ms": 160 + speech_ms}
    (folder / "clips.json").write_text(json.dumps([entry]))
    return folder / "clips.json"
