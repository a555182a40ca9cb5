"""Builds everything from Settings; the only place that knows all rooms.

Each service has `start()`, which returns once it listens, `endpoints()` and `stop()`. `serve_forever`
runs one of them as a process does: uvloop, signals, a clean end.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gateway.breaker import Breaker
from gateway.settings import Settings
from gateway.telemetry.http_server import HttpServer, serve_http

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from starlette.types import ASGIApp

    from gateway.session.manager import Registry, Sessions
    from gateway.speak.tts import Synthesizer
    from gateway.transports.http import Own

log = logging.getLogger(__name__)
T = TypeVar("T")

_STOP_EXTRA_S = 1.0
"""What streams get beyond the sessions' own grace to take their last events."""


class Service(Protocol):
    async def start(self) -> None:
        """Returns once it listens. Raises OSError when an address cannot be had."""
        ...

    def endpoints(self) -> dict[str, str]:
        """Where it listens, by the keys of the endpoints file."""
        ...

    async def stop(self) -> None: ...


class Gateway:
    """parley.v1 over gRPC, with health, metrics and sessions over HTTP."""

    def __init__(self, settings: Settings, *, others: Registry | None = None) -> None:
        """others: those who serve the same address, in other processes. What HTTP would show is then
        theirs to gather: see `shown`, `metrics` and `sessions`."""
        self._settings = settings
        self._others = others
        self.grpc = ""
        """host:port once started."""
        self.http = ""
        """http:// URL once started."""
        self.shown: Own
        """What the HTTP pages show. There once started, as the next two."""
        self.metrics: CollectorRegistry
        self.sessions: Sessions
        self._closers: list[Callable[[], Awaitable[None]]] = []

    async def start(self) -> None:
        """Raises OSError when an address cannot be had; nothing is left behind then."""
        try:
            await self._start()
        except BaseException:
            await self._close_parts()
            raise

    async def _start(self) -> None:
        # Imported here: these rooms bring onnxruntime, openai and the Riva types, and other services need none.
        from prometheus_client import CollectorRegistry

        from gateway.listen.guarded_asr import GuardedRecognizer
        from gateway.listen.riva_asr import RivaRecognizer
        from gateway.listen.silero import SileroVad
        from gateway.session.admission import BEAT_S
        from gateway.session.manager import Sessions
        from gateway.speak.guarded_tts import GuardedSynthesizer
        from gateway.telemetry.loop_watch import LoopWatch
        from gateway.telemetry.metrics import Metrics
        from gateway.think.guarded_llm import GuardedLlm
        from gateway.think.openai_llm import OpenAiLlm
        from gateway.transports.http import Own, build_http
        from gateway.transports.voice_grpc import VoiceServer

        settings = self._settings
        registry = CollectorRegistry()
        metrics = Metrics(registry)

        def breaker(part: str, subject: str) -> Breaker:
            made = Breaker(subject, failures=settings.breaker.failures, open_s=settings.breaker.open_s)
            metrics.watch_breaker(part, lambda: made.state)
            return made

        recognizer = GuardedRecognizer(RivaRecognizer(settings.asr), breaker("asr", "the speech recogniser"))
        self._closers.append(recognizer.close)
        synthesizer = GuardedSynthesizer(
            _synthesizer(settings, registry, "gateway"), breaker("tts", "the speech synthesiser")
        )
        self._closers.append(synthesizer.close)
        llm = GuardedLlm(OpenAiLlm(settings.llm), breaker("llm", "the LLM"))
        self._closers.append(llm.close)
        vad = SileroVad()
        self._closers.append(vad.close)
        metrics.watch_vad(lambda: vad.backlog_ms)
        loop = asyncio.get_running_loop()
        metrics.watch_tasks(lambda: len(asyncio.all_tasks(loop)))
        sessions = Sessions(settings, recognizer, llm, synthesizer, vad, metrics, registry=self._others)
        checks = {"asr": recognizer.check, "llm": llm.check, "tts": synthesizer.check}
        self.shown = Own(checks, registry, sessions.snapshot, lambda: sessions.admitting)
        self.metrics, self.sessions = registry, sessions

        shared = self._others is not None
        audio: OpenAiAudioService | None = None
        if not shared:
            host, port = split_address(settings.listen.http)
            beside: dict[str, ASGIApp] = {}
            if settings.openai_audio.enabled:
                audio = OpenAiAudioService(settings, synthesizer, self.shown.admitting)
                self._closers.append(audio.close)
                beside = audio.beside
            http = serve_http(build_http(self.shown, beside), host, port)
            self.http = f"http://{host}:{await http.start()}"
            self._closers.append(http.stop)

        voice = VoiceServer(
            sessions, settings.session, settings.listen.grpc, metrics.dropped, shared_port=shared
        )
        self.grpc = await voice.start()

        def on_beat(lag_s: float, busy_s: float) -> None:
            sessions.beat(lag_s, busy_s)
            voice.set_admitting(sessions.admitting)

        watch = LoopWatch(BEAT_S, on_beat)
        watch.start()

        async def stop_watch() -> None:
            watch.stop()

        self._closers.append(stop_watch)

        async def stop_voice() -> None:
            drain_s = settings.session.drain_s
            if shared:  # the port first: new connections are for the others
                await asyncio.gather(sessions.drain(drain_s), voice.stop(drain_s + _STOP_EXTRA_S))
            else:
                requests = [audio.drain()] if audio is not None else []
                await asyncio.gather(sessions.drain(drain_s), *requests)
                await voice.stop(_STOP_EXTRA_S)

        self._closers.append(stop_voice)

    def endpoints(self) -> dict[str, str]:
        return {"grpc": self.grpc} | ({"http": self.http} if self.http else {})

    async def stop(self) -> None:
        """Refuse new sessions, let replies end, then close everything."""
        await self._close_parts()

    async def _close_parts(self) -> None:
        while self._closers:
            close = self._closers.pop()
            try:
                await close()
            except Exception:
                log.exception("a part did not close cleanly")


class OpenAiAudioService:
    """OpenAI-compatible speech and transcription, to be served beside a gateway's HTTP pages."""

    def __init__(
        self,
        settings: Settings,
        synthesizer: Synthesizer | None,
        admitting: Callable[[], Awaitable[bool]],
    ) -> None:
        """synthesizer: None makes one of its own. admitting: whether new work is taken now."""
        from gateway.listen.riva_file import RivaTranscriber
        from gateway.openai_audio.app import PATHS, OpenAiAudio
        from gateway.speak.factory import make_synthesizer

        self._drain_s = settings.session.drain_s
        self._own = None
        if synthesizer is None:
            self._own = make_synthesizer(
                settings.tts, settings.models, settings.triton, label="gateway audio"
            )
        speaks = synthesizer or self._own
        assert speaks is not None
        self._transcriber = RivaTranscriber(settings.asr, stall_s=settings.openai_audio.stall_s)
        self._app = OpenAiAudio(settings, speaks, self._transcriber, admitting=admitting)
        self.beside: dict[str, ASGIApp] = dict.fromkeys(PATHS, self._app)
        """For `build_http`."""

    async def drain(self) -> None:
        """Requests end; nothing new is taken."""
        await self._app.drain(self._drain_s)

    async def close(self) -> None:
        """After the HTTP server."""
        await self._transcriber.close()
        if self._own is not None:
            await self._own.close()


def _synthesizer(settings: Settings, registry: CollectorRegistry, label: str) -> Synthesizer:
    """The settings' synthesiser, with metrics of its models."""
    from gateway.speak.factory import make_synthesizer
    from gateway.speak.triton_tts import TritonSynthesizer
    from gateway.telemetry.model_metrics import ModelMetrics
    from gateway.triton.fleet.observe import Observer

    observer = Observer(ModelMetrics(registry))
    made = make_synthesizer(settings.tts, settings.models, settings.triton, label=label, on_event=observer)
    if isinstance(made, TritonSynthesizer):
        observer.watch(made.fleet)
    return made


class Speech:
    """The Riva-compatible services over a Triton that runs somewhere; health and metrics over HTTP."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: Any = None
        self._address = ""
        self._http: HttpServer | None = None
        self._http_url = ""

    async def start(self) -> None:
        """Raises OSError when an address cannot be had; nothing is left behind then."""
        from prometheus_client import CollectorRegistry

        from gateway.riva.server import SpeechServer
        from gateway.telemetry.model_metrics import ModelMetrics
        from gateway.triton.fleet.observe import Observer

        settings, registry = self._settings, CollectorRegistry()
        observer = Observer(ModelMetrics(registry))
        self._server = SpeechServer(
            settings.triton, settings.models, settings.listen.riva, api=settings.tts_api, on_event=observer
        )
        observer.watch(self._server.fleet)
        self._address = await self._server.start()
        try:
            self._http, self._http_url = await start_speech_http(
                settings.listen.speech_http, {"triton": self._server.check}, registry
            )
        except BaseException:
            await self._server.stop(0)
            raise

    def endpoints(self) -> dict[str, str]:
        return {"riva": self._address, "speech_http": self._http_url}

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(self._settings.session.drain_s)
        if self._http is not None:
            await self._http.stop()


async def start_speech_http(
    address: str, checks: Mapping[str, Callable[[], Awaitable[None]]], registry: CollectorRegistry
) -> tuple[HttpServer, str]:
    """`/healthz`, `/readyz` and `/metrics` of the speech process; the server and its http:// URL.

    checks, registry: as `pages.build_pages` takes them. Raises OSError when the address cannot be had.
    """
    from gateway.telemetry.pages import build_pages

    host, port = split_address(address)
    server = serve_http(build_pages(checks, registry), host, port)
    return server, f"http://{host}:{await server.start()}"


class StandInLlm:
    """The stand-in chat model over HTTP."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: HttpServer | None = None
        self._base_url = ""

    async def start(self) -> None:
        from gateway.think.stand_in import build_app

        app = build_app(self._settings.stand_in, now=lambda: datetime.now().astimezone())
        host, port = split_address(self._settings.listen.llm)
        self._server = serve_http(app, host, port)
        self._base_url = f"http://{host}:{await self._server.start()}/v1"

    def endpoints(self) -> dict[str, str]:
        return {"llm": self._base_url}

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()


def split_address(address: str) -> tuple[str, int]:
    """("127.0.0.1", 8080) of "127.0.0.1:8080". Raises OSError for what is none."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise OSError(f"{address!r} is no address to listen on; write host:port")
    return host, int(port)


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on uvloop where there is one."""
    try:
        from gateway.loop import GatewayLoop
    except ImportError:  # uvloop is not there
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=GatewayLoop) as runner:
        return runner.run(main)


async def serve_forever(
    service: Service, on_ready: Callable[[dict[str, str]], None], stop: asyncio.Event | None = None
) -> None:
    """Start, report, run until SIGINT, SIGTERM or `stop`, then stop; a second signal stops at once."""
    stopping = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    current = asyncio.current_task()
    assert current is not None

    def on_signal() -> None:
        if stopping.is_set():
            current.cancel()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        await service.start()
        # What lives now lives for ever: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        # An ended session is some 200 objects in cycles (its parts know each other, h2's too), 50 kB with what
        # they hold: all are looked through after every 500 sessions or so, which takes a few milliseconds. At the
        # default of 700 the collector would look through the young ones some fifty times a second.
        gc.set_threshold(5_000, 5, 4)
        on_ready(service.endpoints())
        await stopping.wait()
    finally:
        await service.stop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
