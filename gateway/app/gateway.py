"""The gateway: parley.v1 over gRPC, and what stands beside it over HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from gateway.app.audio import OpenAiAudioService
from gateway.app.exposure import warn_exposure
from gateway.app.identity import identity_of
from gateway.app.listeners import grpc_tls, listen_http, proxies_of
from gateway.app.memory import make_memory
from gateway.app.synthesizer import watched_synthesizer
from gateway.app.telemetry import open_tracing, tell_of, watch_loop
from gateway.breaker import Breaker
from gateway.settings import Settings
from gateway.telemetry.draining import Drain

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from starlette.types import ASGIApp

    from gateway.identity.limits import Counting
    from gateway.session.manager import Registry, Sessions
    from gateway.transports.http import Own

log = logging.getLogger(__name__)

_STOP_EXTRA_S = 1.0
"""What streams get beyond the sessions' own grace to take their last events."""


class Gateway:
    """parley.v1 over gRPC, OpenAI-compatible audio over HTTP; health, metrics and sessions on an address of operators."""

    def __init__(
        self, settings: Settings, *, others: Registry | None = None, counting: Counting | None = None
    ) -> None:
        """others: those who serve the same address, in other processes. What HTTP would show is then
        theirs to gather: see `shown`, `metrics` and `sessions`. counting: keeps the limits of keys over them."""
        self._settings = settings
        self._others, self._counting = others, counting
        self.grpc = ""
        """host:port once started."""
        self.http = ""
        """URL of the public address once started."""
        self.admin = ""
        """URL of the operators' address once started."""
        self.shown: Own
        """What the HTTP pages show. There once started, as the next two."""
        self.metrics: CollectorRegistry
        self.sessions: Sessions
        self.drain: Drain
        self._closers: list[Callable[[], Awaitable[None]]] = []

    async def start(self) -> None:
        """Raises OSError when an address cannot be had, or may not be (see `exposure`); nothing is left behind then."""
        if self._others is None:
            await warn_exposure(self._settings, ("grpc", "http", "admin"))
        try:
            await self._start()
        except BaseException:
            await self._close_parts()
            raise

    async def _start(self) -> None:
        # Imported here: these rooms bring onnxruntime, openai and the Riva types, and other services need none.
        from prometheus_client import CollectorRegistry

        from gateway.identity.asgi_guard import RequireIdentity, admin_scope, public_scope
        from gateway.listen.guarded_asr import GuardedRecognizer
        from gateway.listen.riva_asr import RivaRecognizer
        from gateway.listen.silero import SileroVad
        from gateway.openai_audio.client_secrets import PATH as CLIENT_SECRETS
        from gateway.openai_audio.client_secrets import ClientSecrets
        from gateway.openai_audio.openapi import SCHEMAS, paths
        from gateway.session.manager import Sessions
        from gateway.speak.guarded_tts import GuardedSynthesizer
        from gateway.telemetry.metrics import Metrics
        from gateway.telemetry.process_metrics import LoopMetrics, ProcessMetrics
        from gateway.think.guarded_llm import GuardedLlm
        from gateway.think.openai_llm import OpenAiLlm
        from gateway.transports.http import Own, build_admin, build_public
        from gateway.transports.voice_grpc import VoiceServer

        settings = self._settings
        identity = identity_of(settings.auth, self._counting)
        self._closers.append(identity.close)
        registry = CollectorRegistry()
        metrics = Metrics(registry)
        process = ProcessMetrics(registry)
        tracing = open_tracing(settings.telemetry, "gateway", process)
        if tracing is not None:
            self._closers.append(tracing.close)

        def breaker(part: str, subject: str) -> Breaker:
            made = Breaker(subject, failures=settings.breaker.failures, open_s=settings.breaker.open_s)
            metrics.watch_breaker(part, lambda: made.state)
            return made

        recognizer = GuardedRecognizer(RivaRecognizer(settings.asr), breaker("asr", "the speech recogniser"))
        self._closers.append(recognizer.close)
        synthesizer = GuardedSynthesizer(
            watched_synthesizer(settings, registry, "gateway"), breaker("tts", "the speech synthesiser")
        )
        self._closers.append(synthesizer.close)
        llm = GuardedLlm(OpenAiLlm(settings.llm), breaker("llm", "the LLM"))
        self._closers.append(llm.close)
        vad = SileroVad()
        self._closers.append(vad.close)
        metrics.watch_vad(lambda: vad.backlog_ms)
        memory, forget = make_memory(settings, metrics.resume)
        self._closers.append(forget)
        sessions = Sessions(
            settings,
            recognizer,
            llm,
            synthesizer,
            vad,
            metrics,
            registry=self._others,
            memory=memory,
            tracing=tracing,
        )
        checks = {"asr": recognizer.check, "llm": llm.check, "tts": synthesizer.check}
        self.shown = Own(checks, registry, sessions.snapshot, lambda: sessions.admitting)
        self.metrics, self.sessions = registry, sessions

        shared = self._others is not None

        async def drain() -> None:
            """New work is refused before any that is old ends."""
            grace_s = settings.session.drain_s
            sessions.draining = True
            if shared:  # the port at once: new connections are for the others
                await asyncio.gather(voice.stop(grace_s + _STOP_EXTRA_S), sessions.drain(grace_s))
            else:
                requests = [audio.drain()] if audio is not None else []
                await asyncio.gather(voice.drain(), sessions.drain(grace_s), *requests)

        def left() -> int:
            return sessions.open + (audio.open if audio is not None else 0)

        self.drain = Drain(settings.session.drain_s, drain, left)
        tell_of(settings, registry, process, identity, self.drain)
        audio: OpenAiAudioService | None = None
        if not shared:
            beside: dict[str, ASGIApp] = {CLIENT_SECRETS: ClientSecrets(identity, settings.auth)}
            if settings.openai_audio.enabled:
                audio = OpenAiAudioService(settings, synthesizer, self.shown.admitting, tracing)
                self._closers.append(audio.close)
                beside |= audio.beside
            admin, self.admin = await listen_http(
                RequireIdentity(
                    build_admin(self.shown, self.drain, guarded=identity.configured),
                    identity,
                    admin_scope(settings.auth.open_metrics),
                ),
                settings.listen.admin,
                settings,
                "the admin address",
                of_operators=True,
            )
            self._closers.append(admin.stop)
            http, self.http = await listen_http(
                RequireIdentity(
                    build_public(beside, paths(settings.openai_audio), SCHEMAS, guarded=identity.configured),
                    identity,
                    public_scope,
                ),
                settings.listen.http,
                settings,
                "the HTTP address",
            )
            self._closers.append(http.stop)

        voice = VoiceServer(
            sessions,
            settings.session,
            settings.listen.grpc,
            metrics.dropped,
            shared_port=shared,
            tls=grpc_tls(settings.tls),
            proxies=proxies_of(settings.auth),
            identity=identity,
        )
        self.grpc = await voice.start()

        def on_beat(lag_s: float, busy_s: float) -> None:
            sessions.beat(lag_s, busy_s)
            voice.set_admitting(sessions.admitting)

        watch = watch_loop(settings.telemetry, LoopMetrics(registry), on_beat)

        async def stop_watch() -> None:
            watch.stop()

        self._closers.append(stop_watch)

        async def stop_voice() -> None:
            await self.drain.done()
            await voice.stop(_STOP_EXTRA_S)

        self._closers.append(stop_voice)

    def endpoints(self) -> dict[str, str]:
        return {"grpc": self.grpc} | ({"http": self.http, "admin": self.admin} if self.http else {})

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
