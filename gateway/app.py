"""Builds everything from Settings; the only place that knows all rooms.

Each service has `start()`, which returns once it listens, `endpoints()` and `stop()`. `serve_forever`
runs one of them as a process does: uvloop, signals, a clean end.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any, Protocol, TypeVar

from gateway.settings import Settings
from gateway.telemetry.http_server import HttpServer, serve_http

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

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.grpc = ""
        """host:port once started."""
        self.http = ""
        """http:// URL once started."""
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

        from gateway.listen.riva_asr import RivaRecognizer
        from gateway.listen.silero import SileroVad
        from gateway.session.manager import Sessions
        from gateway.speak.factory import make_synthesizer
        from gateway.telemetry.metrics import Metrics
        from gateway.think.openai_llm import OpenAiLlm
        from gateway.transports.http import build_http
        from gateway.transports.voice_grpc import VoiceServer

        settings = self._settings
        registry = CollectorRegistry()
        metrics = Metrics(registry)
        recognizer = RivaRecognizer(settings.asr)
        self._closers.append(recognizer.close)
        synthesizer = make_synthesizer(settings.tts)
        self._closers.append(synthesizer.close)
        llm = OpenAiLlm(settings.llm)
        self._closers.append(llm.close)
        vad = SileroVad()
        self._closers.append(vad.close)
        metrics.watch_vad(lambda: vad.backlog_ms)
        sessions = Sessions(settings, recognizer, llm, synthesizer, vad, metrics)

        checks = {"asr": recognizer.check, "llm": llm.check, "tts": synthesizer.check}
        host, port = split_address(settings.listen.http)
        http = serve_http(build_http(checks, registry, sessions.snapshot), host, port)
        self.http = f"http://{host}:{await http.start()}"
        self._closers.append(http.stop)

        voice = VoiceServer(sessions, settings.session, settings.listen.grpc, metrics.dropped)
        self.grpc = await voice.start()

        async def stop_voice() -> None:
            await sessions.drain(settings.session.drain_s)
            await voice.stop(_STOP_EXTRA_S)

        self._closers.append(stop_voice)

    def endpoints(self) -> dict[str, str]:
        return {"grpc": self.grpc, "http": self.http}

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


class Speech:
    """The Riva-compatible services over a Triton that runs somewhere."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: Any = None
        self._address = ""

    async def start(self) -> None:
        from gateway.riva.server import SpeechServer

        triton = self._settings.triton
        self._server = SpeechServer(
            triton.uri, self._settings.listen.riva, request_s=triton.request_ms / 1000
        )
        self._address = await self._server.start()

    def endpoints(self) -> dict[str, str]:
        return {"riva": self._address}

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(self._settings.session.drain_s)


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
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
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
        on_ready(service.endpoints())
        await stopping.wait()
    finally:
        await service.stop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
