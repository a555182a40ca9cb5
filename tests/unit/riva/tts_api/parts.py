"""The TTS API on a real port over scripted models: what is heard tells which text it was."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import numpy as np

from gateway.protocol import tts_pb2 as pb
from gateway.protocol.tts_pb2_grpc import TtsStub, add_TtsServicer_to_server
from gateway.riva.malformed import RefuseMalformed
from gateway.riva.server import GRPC_OPTIONS
from gateway.riva.tts_api.capabilities import About
from gateway.riva.tts_api.fleet_voices import FleetVoices
from gateway.riva.tts_api.service import TtsService
from gateway.settings import TtsApiSettings
from gateway.triton.codec import Array
from gateway.triton.model_info import ModelInfo
from tests.support.tones import tone_of
from tests.unit.riva.parts import Notice, model
from tests.unit.riva.tts_api.fake_fleet import FakeFleet, FakeManager

INPUTS = ("TEXT", "VOICE", "LANGUAGE", "STYLE", "SPEED", "CANCEL")
RATE = 16_000
HELD = "This is tone 500 for a while, and "
"""Complete enough for its first part to be spoken although nothing follows."""


def voice_model(name: str = "tts_a", **changed: Any) -> ModelInfo:
    fields: dict[str, Any] = {"inputs": INPUTS, "sample_rate": RATE, "languages": ("en-US", "de-DE")}
    return model(name, **fields | changed)


class FakeVoice:
    """Hums a text: `tone_of` is its pitch, and each of its characters lasts 20 ms; 40 ms a chunk."""

    def __init__(self) -> None:
        self.notice = Notice()
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        """Model, version, inputs."""
        self.made = self.finished = self.cancelled = 0
        """Chunks; texts."""
        self.made_of: Counter[int] = Counter()
        """Chunks, by tone."""
        self.chunk_ms = 40
        self.hold: asyncio.Event | None = None
        """Everything after the first chunk waits for it."""
        self.script: list[Exception | None] = []
        self.fail_after: int | None = None
        """Chunks of a text, then it breaks."""

    async def __call__(
        self, known: ModelInfo, inputs: Mapping[str, Array], *, version: str = ""
    ) -> AsyncGenerator[dict[str, Array], None]:
        told = {name: value.ravel().tolist()[0] for name, value in inputs.items()}
        self.asked.append((known.name, version, told))
        self.notice()
        done = False
        try:
            failure = self.script.pop(0) if self.script else None
            if failure is not None:
                raise failure
            for number, chunk in enumerate(self.chunks(told["TEXT"], known.sample_rate)):
                if number == self.fail_after:
                    raise RuntimeError("the voice broke")
                if number and self.hold is not None:
                    await self.hold.wait()
                await asyncio.sleep(0)
                self.made += 1
                self.made_of[tone_of(told["TEXT"])] += 1
                self.notice()
                yield {"AUDIO": chunk}
            done = True
        finally:
            self.finished += done
            self.cancelled += not done
            self.notice()

    def chunks(self, said: str, rate: int) -> list[Array]:
        size = rate * self.chunk_ms // 1000
        count = max(1, len(said) // 2)
        at = np.arange(count * size)
        tone = (0.25 * np.sin(2 * np.pi * tone_of(said) * at / rate)).astype(np.float32)
        return list(tone.reshape(count, size))


class Rig:
    """The service, its fakes, and a client."""

    stub: TtsStub

    def __init__(self, *models: ModelInfo, resident: int = 99, **settings: Any) -> None:
        self.manager = FakeManager(*(models or (voice_model(),)), resident=resident)
        self.voice = FakeVoice()
        self.settings = TtsApiSettings(**{"calibrate": False} | settings)
        self.fleet = FakeFleet(self.manager, self.voice)
        self.service = TtsService(
            self.manager, FleetVoices(self.fleet, chunk_s=5.0), self.settings, About("test", "here:1")
        )
        self.address = ""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Rig]:
        server = grpc.aio.server(options=GRPC_OPTIONS, interceptors=[RefuseMalformed()])
        add_TtsServicer_to_server(self.service, server)  # type: ignore[no-untyped-call]
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            async with grpc.aio.insecure_channel(self.address) as channel:
                self.stub = TtsStub(channel)  # type: ignore[no-untyped-call]
                yield self
        finally:
            await self.service.close()
            await server.stop(0)
        assert all(count == 0 for count in self.manager.leases.values()), "a lease was not given back"

    async def start(self, session_id: str = "", *, fast: bool = True, **fields: Any) -> str:
        delivery = pb.Delivery(as_fast_as_possible=fast)
        request = pb.StartSessionRequest(session_id=session_id, delivery=delivery, **fields)
        started: pb.StartSessionResponse = await self.stub.StartSession(request)
        return started.session_id

    async def control(self, session_id: str, command: Any) -> pb.ControlResponse:
        answer: pb.ControlResponse = await self.stub.Control(
            pb.ControlRequest(session_id=session_id, command=command)
        )
        return answer

    def open(self, session_id: str, *texts: str, end: bool = True, **utterance: Any) -> Call:
        return Call(self.stub, session_id, texts, end, pb.Utterance(**utterance) if utterance else None)

    async def say(self, session_id: str, *texts: str, **utterance: Any) -> Heard:
        return await self.open(session_id, *texts, **utterance).rest()


class Heard:
    """What one call said."""

    def __init__(self) -> None:
        self.messages: list[pb.SynthesizeResponse] = []
        self.done: pb.UtteranceDone | None = None

    @property
    def frames(self) -> list[bytes]:
        return [message.frame.audio for message in self.messages if message.HasField("frame")]

    @property
    def pcm(self) -> bytes:
        return b"".join(self.frames)


class Call:
    """One Synthesize call, read by hand."""

    def __init__(
        self,
        stub: TtsStub,
        session_id: str,
        texts: tuple[str, ...],
        end: bool,
        utterance: pb.Utterance | None,
    ) -> None:
        self.heard = Heard()
        self._texts: asyncio.Queue[pb.SynthesizeRequest | None] = asyncio.Queue()
        first = pb.SynthesizeRequest(session_id=session_id, text=texts[0] if texts else "")
        if utterance is not None:
            first.utterance.CopyFrom(utterance)
        self._texts.put_nowait(first)
        for text in texts[1:]:
            self.send(text)
        if end:
            self.end()
        self.rpc: Any = stub.Synthesize(self._requests())

    def send(self, text: str = "", **fields: Any) -> None:
        self._texts.put_nowait(pb.SynthesizeRequest(text=text, **fields))

    def end(self) -> None:
        self._texts.put_nowait(None)

    async def read(self) -> pb.SynthesizeResponse | None:
        """None at the end."""
        message = await self.rpc.read()
        if message is grpc.aio.EOF:
            return None
        self.heard.messages.append(message)
        if message.HasField("done"):
            assert self.heard.done is None
            self.heard.done = message.done
        result: pb.SynthesizeResponse = message
        return result

    async def frames(self, count: int) -> list[bytes]:
        """The next ones."""
        got = []
        for _ in range(count):
            message = await self.read()
            assert message is not None
            assert message.HasField("frame")
            got.append(message.frame.audio)
        return got

    async def rest(self) -> Heard:
        while await self.read() is not None:
            pass
        return self.heard

    async def _requests(self) -> AsyncIterator[pb.SynthesizeRequest]:
        while (message := await self._texts.get()) is not None:
            yield message


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("it was not refused")
