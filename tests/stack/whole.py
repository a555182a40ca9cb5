"""The whole of Parley in a test: gateway, Riva front and a scripted LLM on this loop, over a real Triton."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from gateway.app import Gateway, Speech
from gateway.audio.pcm import to_int16
from gateway.audio.resample import resample
from gateway.settings import Settings
from gateway.speak.triton_tts import TritonSynthesizer
from gateway.speak.tts import TtsError
from gateway.triton.channel import GRPCInferenceServiceStub, open_channel
from gateway.triton.codec import text
from gateway.triton.infer import stream_decoupled
from gateway.triton.stream import Drains
from tests.support.caller import Caller
from tests.support.faulty_llm import FaultyLlm

TONE_VOICE = "beep"
"""Of tts_tone."""
LATE_S = 0.2
"""A client with a jitter buffer of this length hears no gap. The pacing itself keeps to some 5 ms; the
rest is the share of a busy machine's cores that the test's own client and server get in one process."""


class Events:
    """What a supervisor said, and a way to wait for it."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, event: str) -> None:
        self.all.append(event)
        self._more.set()

    async def until(self, part: str, *, count: int = 1, within_s: float = 20.0) -> None:
        await self._until(lambda: self._said(part) >= count, repr(part), within_s)

    async def until_repaired(self, model: str) -> None:
        """Back by itself, or with the whole server: a process killed with a request in its hands sometimes
        takes the server down with it (an abort in its Python backend), which is then started again."""
        await self._until(
            lambda: (
                self._said(f"{model} is back") >= 1 or (self.server_died and self._said("models ready") >= 2)
            ),
            f"a repair of {model}",
            20.0,
        )

    def _said(self, part: str) -> int:
        return sum(part in event for event in self.all)

    async def _until(self, happened: Callable[[], bool], what: str, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                while not happened():
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"{what} did not happen; what did: {self.all}") from None

    @property
    def server_died(self) -> bool:
        return any("Triton ended" in event for event in self.all)


class SessionLog(logging.Handler):
    """Why and when sessions ended, from the gateway's log."""

    def __init__(self) -> None:
        super().__init__()
        self.closed: dict[str, str] = {}
        """By session id: "reason (message)"."""
        self._more = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        found = re.match(r"session (\S+) closed: (.*)", record.getMessage())
        if found:
            self.closed[found[1]] = found[2]
            self._more.set()

    async def until(self, session_id: str, within_s: float = 5.0) -> str:
        async with asyncio.timeout(within_s):
            while session_id not in self.closed:
                self._more.clear()
                await self._more.wait()
        return self.closed[session_id]


@dataclass
class Whole:
    """One gateway and what it needs; `address` is its parley.v1."""

    settings: Settings
    llm: FaultyLlm
    triton: str
    """host:port of Triton's gRPC."""
    log: SessionLog
    address: str = ""
    _gateway: Gateway | None = None

    def call(self, *, voice: str = TONE_VOICE, session_id: str = "") -> Caller:
        return Caller(self.address, voice=voice, session_id=session_id)

    async def made(self) -> int:
        """Chunks that tts_tone has made in its life, but for those that were made for this question."""
        channel, drains = open_channel(self.triton), Drains(deadline_s=2.0)
        stream = stream_decoupled(
            GRPCInferenceServiceStub(channel),
            "tts_tone",
            {"TEXT": text("1"), "STYLE": text("fast")},
            drains=drains,
            first_deadline_s=5,
            next_deadline_s=5,
        )
        made = [int(outputs["MADE"][0]) async for outputs in stream][-1]
        await drains.close()
        await channel.close()
        return made


@asynccontextmanager
async def whole(triton: str, **changes: dict[str, Any]) -> AsyncIterator[Whole]:
    """changes: of the settings, by section. Fails when a task or a thread is left."""
    with no_tasks_left(), session_log() as log:
        async with FaultyLlm("ok", words=()) as llm:
            listen = dict.fromkeys(("grpc", "riva", "http", "admin", "speech_http"), "127.0.0.1:0")
            ours: dict[str, Any] = {"triton": {"uri": triton}, "listen": listen}
            speech = Speech(_settings(ours, changes))
            await speech.start()
            ours |= {
                "asr": {"uri": speech.endpoints()["riva"]},
                "tts": {"uri": triton},
                "llm": {"base_url": llm.base_url},
                "session": {"drain_s": 0.0},
            }
            settings = _settings(ours, changes)
            gateway = Gateway(settings)
            try:
                await gateway.start()
                yield Whole(settings, llm, triton, log, gateway.grpc)
            finally:
                await gateway.stop()
                await speech.stop()


def _settings(ours: dict[str, Any], changes: dict[str, dict[str, Any]]) -> Settings:
    return Settings(**{name: ours.get(name, {}) | changes.get(name, {}) for name in {*ours, *changes}})


@contextmanager
def no_tasks_left() -> Iterator[None]:
    before, threads = asyncio.all_tasks(), set(threading.enumerate())
    yield
    # A Triton that was started again meanwhile has a new task of its own: it outlives the gateway.
    new = asyncio.all_tasks() - before - {asyncio.current_task()}
    left = {task for task in new if task is not None and not task.get_name().startswith("triton ")}
    assert not left, f"tasks left: {left}"
    # The loop's own pool and gRPC's poller stay for the next user.
    shared = ("asyncio_", "uvloop_", "Thread-")
    running = [t for t in threading.enumerate() if t not in threads and not t.name.startswith(shared)]
    assert not running, f"threads left: {running}"


@contextmanager
def session_log() -> Iterator[SessionLog]:
    logger, handler = logging.getLogger("gateway.session.manager"), SessionLog()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class Bystander:
    """Another session of the same gateway, which is in the middle of a reply and must not notice."""

    def __init__(self, caller: Caller, text: str, *, hz: int = 0) -> None:
        """hz: the tone of `text`, where its voice is tts_tone."""
        self.caller, self._text, self._hz = caller, text, hz
        self._mark = 0

    async def begin(self) -> None:
        self._mark = await self.caller.typed(self._text)
        await self.caller.heard(self._mark, 200)

    async def finish(self, within_s: float = 20.0) -> float:
        """Its reply ended well and came in time; returns the worst lateness, s."""
        done = await self.caller.done(self._mark, within_s)
        assert done.outcome == "completed"
        if self._hz:
            assert self.caller.tones(self._hz, since=self._mark) == [self._hz]
        late = self.caller.lateness_s(done.reply_id)
        assert late < LATE_S, f"the bystander's audio came {late:.3f} s late"
        return late


async def user_speech(triton: str, words: str) -> bytes:
    """PCM16 at 16 kHz of the best voice there is, with silence behind it that ends a turn."""
    settings = Settings(tts={"uri": triton}).tts
    synthesizer = TritonSynthesizer(settings)
    try:
        for voice in ("rms", "en-us-clear"):
            try:
                chunks = [chunk async for chunk in synthesizer.synthesize(words, voice=voice)]
            except TtsError:
                continue
            samples = resample(to_int16(b"".join(c.pcm for c in chunks)), chunks[0].rate, 16_000)
            return samples.tobytes()
    finally:
        await synthesizer.close()
    raise AssertionError("no voice")


async def tts_metric(url: str, name: str, at_least: float | None = None, within_s: float = 5.0) -> float:
    """The value of one of the models' own metrics, once it is as large as asked for."""
    async with asyncio.timeout(within_s):
        while True:
            page = await asyncio.to_thread(_read, f"{url}/metrics")
            found = next((line for line in page.splitlines() if line.startswith(name)), None)
            value = float(found.rsplit(" ", 1)[1]) if found else 0.0
            if at_least is None or value >= at_least:
                return value
            await asyncio.sleep(0.05)  # a page of numbers tells nobody when they change


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=2.0) as answer:
        return str(answer.read().decode())


@dataclass
class Table:
    """What each fault cost, for people; printed when the tests of a module are over."""

    rows: list[tuple[str, float | None, float | None, float | None]] = field(default_factory=list)

    def add(
        self, fault: str, *, told: float | None = None, works: float | None = None, late: float | None = None
    ) -> None:
        """told: s from the fault to the client's event. works: s from the part's return to the next
        reply's first frame or to the transcript. late: worst lateness of the bystander, s."""
        self.rows.append((fault, told, works, late))

    def __str__(self) -> str:
        lines = [f"{'fault':44}{'told after':>12}{'works after':>13}{'neighbour late':>16}"]
        for fault, *seconds in self.rows:
            cells = ["" if s is None else f"{s * 1000:.0f} ms" for s in seconds]
            lines.append(f"{fault:44}{cells[0]:>12}{cells[1]:>13}{cells[2]:>16}")
        return "\n".join(lines)
