"""Our gRPC services over scripted parts, in a loop of their own: hypothesis runs its examples outside any."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc
from prometheus_client import CollectorRegistry

from gateway.session.manager import Sessions
from gateway.settings import Settings
from gateway.speak.tts import Chunk
from gateway.telemetry.metrics import Metrics
from gateway.transports.voice_grpc import VoiceServer
from tests.support.fakes import FakeLlm, FakeRecognizer, FakeTts, FakeVad
from tests.unit.riva.parts import Rig

T = TypeVar("T")
VOICE = "/parley.v1.Voice/Converse"
ASR = "/nvidia.riva.asr.RivaSpeechRecognition/"
TTS = "/nvidia.riva.tts.RivaSpeechSynthesis/"
HELPFUL = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
MESSAGE_BYTES, TEXT_CHARS = 4_096, 200
_SAMPLED, _MOST_SAMPLED = 10, 200


class Outcome:
    """How a call ended."""

    def __init__(self, answers: list[bytes], refusal: grpc.RpcError | None) -> None:
        self.answers = answers
        self.code: grpc.StatusCode = refusal.code() if refusal else grpc.StatusCode.OK
        self.text: str = (refusal.details() or "") if refusal else ""

    def check(self) -> Outcome:
        """Answered, or refused with a status and a text that help."""
        if self.code is not grpc.StatusCode.OK:
            assert self.code in HELPFUL, (self.code, self.text)
            assert len(self.text) > 20, self.text
            for word in (
                "Traceback",
                "Exception",
                "its log says why",
                "internal",
                "Error in service handler",
            ):
                assert word not in self.text, self.text
        return self


class QuickTts(FakeTts):
    """A few milliseconds of tone for any text."""

    async def synthesize(
        self, text: str, *, voice: str = "", language: str = "", speed: float = 1.0, model: str = ""
    ) -> AsyncGenerator[Chunk, None]:
        async for chunk in super().synthesize(text[:20], voice=voice, language=language):
            yield chunk


class Host:
    """`with Host() as host:`; everything of it is gone afterwards, and it can say what it holds meanwhile."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="services")
        self.calls = 0
        self.ended: Counter[str] = Counter()
        """Calls by service and status."""
        self._sample: list[tuple[Any, Sequence[bytes] | bytes, str]] = []
        self.log = _Errors()

    def __enter__(self) -> Host:
        self._thread.start()
        self.run(self._start())
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        self.voice: Any = grpc.insecure_channel(self._address, options=options)
        self.riva: Any = grpc.insecure_channel(self.rig.address, options=options)
        logging.getLogger().addHandler(self.log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger().removeHandler(self.log)
        self.voice.close()
        self.riva.close()
        self.run(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    async def _start(self) -> None:
        self.recognizer, self.llm, self.tts, self.vad = FakeRecognizer(), FakeLlm(), QuickTts(), FakeVad()
        self.recognizer.final_delay_s = self.llm.first_s = self.llm.token_s = 0.0
        self.tts.ms_per_char, self.tts.first_s, self.tts.chunk_s = 2.0, 0.0, 0.0
        limits = {"max_message_bytes": MESSAGE_BYTES, "max_text_chars": TEXT_CHARS, "handshake_s": 5.0}
        settings = Settings(session=limits)
        metrics = Metrics(CollectorRegistry())
        self.sessions = Sessions(settings, self.recognizer, self.llm, self.tts, self.vad, metrics)
        self._server = VoiceServer(self.sessions, settings.session, "127.0.0.1:0")
        self._address = await self._server.start()
        self.rig = Rig()
        self._rig = self.rig.serve()
        await self._rig.__aenter__()

    async def _stop(self) -> None:
        await self.sessions.drain(1.0)
        await self._server.stop(1.0)
        await self._rig.__aexit__(None, None, None)

    # ---- calls ----

    def converse(self, messages: Sequence[bytes]) -> Outcome:
        return self._outcome(self.voice.stream_stream(VOICE), messages, VOICE)

    def stream(self, path: str, messages: Sequence[bytes]) -> Outcome:
        """Of one of the Riva services."""
        return self._outcome(self.riva.stream_stream(path), messages, path)

    def ask(self, path: str, message: bytes) -> Outcome:
        """Of one of the Riva services."""
        return self._outcome(self.riva.unary_unary(path), message, path)

    def _outcome(self, method: Any, sent: Sequence[bytes] | bytes, path: str) -> Outcome:
        self.calls += 1
        if self.calls % _SAMPLED == 0 and len(self._sample) < _MOST_SAMPLED:
            self._sample.append((method, sent, path))
        try:
            said = method(sent if isinstance(sent, bytes) else iter(sent), timeout=20)
            outcome = Outcome([said] if isinstance(said, bytes) else list(said), None)
        except grpc.RpcError as error:
            outcome = Outcome([], error)
        self.ended[f"{path.rpartition('/')[2]} {outcome.code.name}"] += 1
        return outcome

    def growth_mb(self, rounds: int) -> tuple[int, float]:
        """Sends a sample of everything again and again: how many calls, and what they left in memory."""
        sample, before = self._sample, 0.0
        self._sample = []
        for number in range(rounds + 1):
            for method, sent, path in sample:
                self._outcome(method, sent, path).check()
            self.check_nothing_is_held()
            self._forget()
            if number == 0:
                before = resident_mb()
        return rounds * len(sample), resident_mb() - before

    def _forget(self) -> None:
        """The fakes' diaries."""
        for diary in (
            *(self.recognizer.heard, self.recognizer.audio_ms, self.recognizer.languages),
            *(self.llm.prompts, self.tts.sentences, self.rig.asr.calls, self.rig.tts.asked, self._sample),
        ):
            diary.clear()

    # ---- what it holds ----

    def settle(self) -> None:
        """Wait for sessions whose client has heard the end already."""

        async def served() -> None:
            for running in (self._server._serving, {task for _, task in self.sessions._live.values()}):
                if running:
                    _, late = await asyncio.wait(set(running), timeout=5)
                    assert not late, late
            assert not self.sessions.snapshot()

        self.run(served())

    def check_nothing_is_held(self) -> None:
        self.settle()
        assert not self.vad.open_streams
        assert not self.rig.vad.open_streams
        assert self.rig.asr.left_open == 0
        self.rig.asr.calls.clear()
        assert self.recognizer.streams == self.recognizer.released
        assert self.llm.streams == self.llm.closed
        assert self.tts.streams == self.tts.released
        assert not self.log.texts, self.log.texts[0]

    def tasks(self) -> int:
        async def count() -> int:
            return len(asyncio.all_tasks())

        return self.run(count())


class _Errors(logging.Handler):
    """An exception that nobody thought of ends in the log."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


def resident_mb() -> float:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
