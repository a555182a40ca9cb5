"""A scripted Triton for the Riva services: models that answer from what they hear, and keep a diary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import numpy as np
from riva.client.proto import riva_asr_pb2 as rasr
from riva.client.proto import riva_asr_pb2_grpc, riva_tts_pb2_grpc

from gateway.audio.pcm import Int16
from gateway.riva.asr import SpeechRecognition
from gateway.riva.malformed import RefuseMalformed
from gateway.riva.models import SpeechModels
from gateway.riva.server import GRPC_OPTIONS
from gateway.riva.tts import SpeechSynthesis
from gateway.riva.utterance import CHUNK, RATE, Audio
from gateway.triton.codec import Array, text
from gateway.triton.errors import TritonError, TritonUnavailable
from gateway.triton.fleet.looks import Looks
from gateway.triton.model_info import ModelInfo
from gateway.triton.repository import ModelState
from gateway.triton.routing.choose import Candidate, Want, decide
from gateway.triton.routing.languages import voice_of
from gateway.triton.routing.policy import Policy
from tests.support.fakes import FakeVad

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
WORD = CHUNK * 2
"""Loud samples that make one word."""


def model(name: str, **changed: Any) -> ModelInfo:
    asr = name.startswith("asr")
    fields: dict[str, Any] = {
        "name": name,
        "backend": "python",
        "decoupled": True,
        "max_batch_size": 64 if asr else 0,
        "sequence": asr,
        "inputs": (),
        "outputs": (),
        "family": name[:3],
        "languages": ("en-US",),
        "voices": () if asr else ("ann", "bob"),
        "voice_languages": (),
        "sample_rate": 16_000,
        "tags": (),
        "needs_gpu": False,
        "memory_mb": 0,
        "license": "",
        "default": False,
    }
    return ModelInfo(**fields | changed)


class FakeRepository:
    """What Triton says is ready."""

    def __init__(self, *models: ModelInfo) -> None:
        self.models = {known.name: known for known in models}
        self.looks = 0
        self.failure: TritonError | None = None

    async def index(self, *, ready: bool = False, deadline_s: float = 5.0) -> list[ModelState]:
        self.looks += 1
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return [ModelState(name, "1", "READY", "") for name in self.models]

    async def describe(self, name: str, *, deadline_s: float = 5.0) -> ModelInfo:
        if name not in self.models:
            raise TritonUnavailable(f"model {name}: unknown model")
        return self.models[name]


class FakeFleet:
    """Holds models of one scripted Triton as the real one does, without leases and loads."""

    def __init__(self, repository: FakeRepository, asr: FakeAsr, tts: FakeTts) -> None:
        self.repository, self.asr, self.tts = repository, asr, tts
        self.known: dict[str, ModelInfo] = {}
        self.held: list[FakeHold] = []
        """Not released yet."""
        self.refresh = Looks(self.look).refresh

    def candidates(self) -> list[Candidate]:
        return [Candidate(info) for info in self.known.values()]

    def hold(
        self, want: Want, *, policy: str = "", notify: Callable[[str, str], None] | None = None
    ) -> FakeHold:
        self.held.append(FakeHold(self, want))
        return self.held[-1]

    async def look(self) -> None:
        try:
            names = sorted(state.name for state in await self.repository.index())
        except TritonError:
            self.known = {}
            raise
        self.known = {name: self.repository.models[name] for name in names}


class FakeHold:
    def __init__(self, fleet: FakeFleet, want: Want) -> None:
        self._fleet, self._want = fleet, want
        self.info: ModelInfo | None = None
        self.recovered: list[TritonError] = []

    async def take(self, *, deadline_s: float | None = None) -> ModelInfo:
        await asyncio.sleep(0)
        if self.info is None:
            self.info = decide(self._fleet.candidates(), self._want, Policy()).serves.info
        return self.info

    async def recover(self, error: TritonError) -> None:
        assert self.info is not None
        self.recovered.append(error)
        self._fleet.known.pop(self.info.name, None)
        self.info = None
        await self._fleet.look()

    async def sequence(self) -> FakeCall:
        return self._fleet.asr.open()

    def stream(
        self, inputs: Mapping[str, Array], *, first_deadline_s: float, next_deadline_s: float
    ) -> AsyncGenerator[dict[str, Array], None]:
        assert self.info is not None
        return self._fleet.tts.synthesize(self.info, inputs)

    def voice_inputs(self) -> dict[str, Array]:
        assert self.info is not None
        name = voice_of(self.info, self._want.voice, self._want.language)
        return {"VOICE": text(name)} if name else {}

    def release(self, *, linger_s: float = 0.0) -> None:
        self._fleet.held.remove(self)


class Notice:
    """Wakes a test whenever something was written into a diary."""

    def __init__(self) -> None:
        self._news = asyncio.Event()

    def __call__(self) -> None:
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """The test's own timeout is the limit."""
        while not condition():
            self._news.clear()
            await self._news.wait()


class FakeAsr:
    """A recogniser that says a number for every 320 ms of loud audio; `calls` is its diary."""

    def __init__(self, notice: Notice | None = None) -> None:
        self.notice = notice or Notice()
        self.calls: list[FakeCall] = []
        self.script: list[Exception | None] = []
        """What the next chunks raise; None answers."""
        self.gate: asyncio.Event | None = None
        """Answers wait for it."""

    def open(self, *_: object) -> FakeCall:
        call = FakeCall(self)
        self.calls.append(call)
        return call

    async def open_soon(self) -> FakeCall:
        return self.open()

    @property
    def left_open(self) -> int:
        return sum(not call.over for call in self.calls)


class FakeCall:
    def __init__(self, asr: FakeAsr) -> None:
        self._asr = asr
        self.chunks: list[int] = []
        self.language = ""
        self.hints: tuple[str, ...] = ()
        self.started = self.ended = self.given_up = False
        self._samples = self._loud = 0
        self._times: list[tuple[int, int]] = []
        self._word_start = 0

    @property
    def over(self) -> bool:
        return self.ended or self.given_up

    async def infer(
        self,
        audio: Audio,
        *,
        start: bool = False,
        end: bool = False,
        language: str = "",
        hints: Sequence[str] = (),
        deadline_s: float,
    ) -> dict[str, Array]:
        assert start == (not self.chunks), "START comes with the first chunk and no other"
        assert not self.over, "nothing comes after END"
        assert audio.size <= CHUNK
        self.chunks.append(audio.size)
        self._asr.notice()
        if start:
            self.language, self.hints = language, tuple(hints)
        if self._asr.gate is not None:
            await self._asr.gate.wait()
        failure = self._asr.script.pop(0) if self._asr.script else None
        if failure is not None:
            raise failure
        self.ended = end
        self._hear(audio)
        return self._answer(end)

    def give_up(self) -> None:
        self.given_up = not self.ended
        self._asr.notice()

    def _hear(self, audio: Audio) -> None:
        for at in np.flatnonzero(np.abs(audio) > 0.1):
            if self._loud % WORD == 0:
                self._word_start = self._samples + int(at)
            self._loud += 1
            if self._loud % WORD == 0:
                end = self._samples + int(at)
                self._times.append((self._word_start * 1000 // RATE, end * 1000 // RATE))
        self._samples += audio.size

    def _answer(self, end: bool) -> dict[str, Array]:
        words = [NUMBERS[i % 10] for i in range(len(self._times))]
        said = " ".join(words)
        return {
            "TRANSCRIPT": text(said),
            "STABLE": np.array([len(said) if end else len(" ".join(words[:-1]))], np.int32),
            "IS_FINAL": np.array([end]),
            "WORDS": text(*words),
            "WORD_TIMES": np.array(self._times, np.int32).reshape(-1, 2),
        }


class FakeTts:
    """A voice that hums 100 ms for every word, chunk by chunk."""

    def __init__(self, notice: Notice, rate: int = 16_000) -> None:
        self.notice = notice
        self.rate = rate
        self.asked: list[dict[str, Any]] = []
        self.finished = self.cancelled = 0
        self.hold: asyncio.Event | None = None
        """Everything after the first chunk waits for it."""
        self.script: list[Exception | None] = []

    async def synthesize(
        self, known: ModelInfo, inputs: Mapping[str, Array]
    ) -> AsyncGenerator[dict[str, Array], None]:
        self.asked.append({"model": known.name, **{k: v.ravel().tolist() for k, v in inputs.items()}})
        self.notice()
        done = False
        try:
            failure = self.script.pop(0) if self.script else None
            if failure is not None:
                raise failure
            words = str(inputs["TEXT"].ravel()[0]).split()
            for i, word in enumerate(words):
                if i and self.hold is not None:
                    await self.hold.wait()
                tone = np.sin(np.arange(self.rate // 10) * 2 * np.pi * 300 / self.rate) * 0.3
                yield {
                    "AUDIO": tone.astype(np.float32),
                    "WORDS": text(word),
                    "WORD_TIMES": np.array([[i * 100, i * 100 + 100]], np.int32),
                }
            done = True
        finally:
            self.finished += done
            self.cancelled += not done
            self.notice()


class Rig:
    """Both services on a free port, over a scripted Triton."""

    def __init__(self, *models: ModelInfo) -> None:
        self.repository = FakeRepository(*(models or (model("asr_a"), model("tts_a"))))
        self.notice = Notice()
        self.asr = FakeAsr(self.notice)
        self.tts = FakeTts(self.notice)
        self.fleet = FakeFleet(self.repository, self.asr, self.tts)
        self.models = SpeechModels(self.fleet)
        self.vad = FakeVad()
        self.address = ""

    @asynccontextmanager
    async def serve(self) -> AsyncGenerator[Rig, None]:
        server = grpc.aio.server(options=GRPC_OPTIONS, interceptors=[RefuseMalformed()])
        riva_asr_pb2_grpc.add_RivaSpeechRecognitionServicer_to_server(
            SpeechRecognition(self.models, self.vad, chunk_deadline_s=5.0), server
        )
        riva_tts_pb2_grpc.add_RivaSpeechSynthesisServicer_to_server(SpeechSynthesis(self.models), server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self.channel = grpc.aio.insecure_channel(self.address)
        try:
            yield self
        finally:
            await self.channel.close()
            await server.stop(0)

    @property
    def asr_stub(self) -> Any:
        return riva_asr_pb2_grpc.RivaSpeechRecognitionStub(self.channel)

    @property
    def tts_stub(self) -> Any:
        return riva_tts_pb2_grpc.RivaSpeechSynthesisStub(self.channel)


async def ignored(error: TritonError) -> None:
    """For an utterance: nobody has to know."""


def loud(ms: float, rate: int = RATE) -> Int16:
    """What the detector takes for speech and the recogniser for words."""
    return np.full(int(rate * ms / 1000), 10_000, np.int16)


def quiet(ms: float, rate: int = RATE) -> Int16:
    return np.zeros(int(rate * ms / 1000), np.int16)


def config(**changed: Any) -> rasr.RecognitionConfig:
    fields: dict[str, Any] = {"encoding": 1, "sample_rate_hertz": RATE, "language_code": "en-US"}
    return rasr.RecognitionConfig(**fields | changed)


def streaming(interim: bool = True, **changed: Any) -> rasr.StreamingRecognizeRequest:
    return rasr.StreamingRecognizeRequest(
        streaming_config=rasr.StreamingRecognitionConfig(config=config(**changed), interim_results=interim)
    )


def audio(samples: Int16, **changed: Any) -> rasr.StreamingRecognizeRequest:
    return rasr.StreamingRecognizeRequest(audio_content=samples.tobytes(), **changed)
