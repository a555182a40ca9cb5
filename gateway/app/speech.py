"""The speech service: Riva-compatible gRPC over the models of a Triton."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from gateway.app.exposure import warn_exposure
from gateway.app.identity import identity_of
from gateway.app.listeners import listen_http
from gateway.app.telemetry import open_tracing, tell_of, watch_loop
from gateway.settings import AuthSettings, Settings
from gateway.telemetry.draining import Drain, drain_route
from gateway.telemetry.http_server import HttpServer

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from gateway.identity import Identity
    from gateway.telemetry.loop_watch import LoopWatch
    from gateway.telemetry.tracing import Tracing


class Speech:
    """The Riva-compatible services over a Triton that runs somewhere; health and metrics over HTTP."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: Any = None
        self._address = ""
        self._http: HttpServer | None = None
        self._http_url = ""
        self._identity: Identity | None = None
        self.drain: Drain
        self._tracing: Tracing | None = None
        self._watch: LoopWatch | None = None

    async def start(self) -> None:
        """Raises OSError when an address cannot be had, or may not be; nothing is left behind then."""
        await warn_exposure(self._settings, ("riva", "speech_http"))
        from prometheus_client import CollectorRegistry

        from gateway.riva.server import MAX_STREAMS, SpeechServer
        from gateway.telemetry.model_metrics import ModelMetrics
        from gateway.telemetry.process_metrics import LoopMetrics, ProcessMetrics
        from gateway.telemetry.speech_metrics import SpeechMetrics
        from gateway.triton.fleet.observe import Observer

        settings, registry = self._settings, CollectorRegistry()
        identity = self._identity = identity_of(settings.auth)
        observer = Observer(ModelMetrics(registry))
        metrics = SpeechMetrics(registry, max_streams=MAX_STREAMS)
        process = ProcessMetrics(registry)
        self._tracing = open_tracing(settings.telemetry, "speech", process)
        self._server = SpeechServer(
            settings.triton,
            settings.models,
            settings.listen.riva,
            api=settings.tts_api,
            metrics=metrics,
            on_event=observer,
            tls=settings.tls,
            identity=identity,
            tracing=self._tracing,
        )
        observer.watch(self._server.fleet)
        server, grace_s = self._server, settings.session.drain_s
        self.drain = Drain(grace_s, lambda: server.stop(grace_s), lambda: metrics.open)
        tell_of(settings, registry, process, identity, self.drain)
        try:
            # Before the models are loaded, which takes minutes: probes see a process that lives and is not ready.
            self._http, self._http_url = await start_speech_http(
                settings.listen.speech_http,
                {"triton": self._server.check},
                registry,
                settings,
                settings.auth,
                identity,
                drain=self.drain,
            )
            self._address = await self._server.start()
        except BaseException:
            if self._http is not None:
                await self._http.stop()
            await self._close_tracing()
            raise
        self._watch = watch_loop(settings.telemetry, LoopMetrics(registry))

    def endpoints(self) -> dict[str, str]:
        return {"riva": self._address, "speech_http": self._http_url}

    async def stop(self) -> None:
        if self._address:
            await self.drain.done()
        if self._http is not None:
            await self._http.stop()
        if self._identity is not None:
            await self._identity.close()
        if self._watch is not None:
            self._watch.stop()
        await self._close_tracing()

    async def _close_tracing(self) -> None:
        if self._tracing is not None:
            await self._tracing.close()
            self._tracing = None


async def start_speech_http(
    address: str,
    checks: Mapping[str, Callable[[], Awaitable[None]]],
    registry: CollectorRegistry,
    settings: Settings,
    auth: AuthSettings | None = None,
    identity: Identity | None = None,
    *,
    drain: Drain,
) -> tuple[HttpServer, str]:
    """`/healthz`, `/readyz`, `/metrics` and `/drain` of the speech process; the server and its URL.

    checks, registry: as `pages.build_pages` takes them. Raises OSError when the address cannot be had.
    """
    from gateway.identity.asgi_guard import RequireIdentity, admin_scope
    from gateway.telemetry.pages import build_pages

    auth = auth or AuthSettings()
    bare = build_pages(checks, registry, draining=lambda: drain.begun, beside=[drain_route(drain)])
    pages = RequireIdentity(bare, identity or identity_of(auth), admin_scope(auth.open_metrics))
    return await listen_http(pages, address, settings, "the speech process' HTTP address", of_operators=True)
