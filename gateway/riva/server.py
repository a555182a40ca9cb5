"""The speech service: Riva's ASR and TTS gRPC APIs over the models of one Triton."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from riva.client.proto import riva_asr_pb2_grpc, riva_tts_pb2_grpc

from gateway.identity import SPEECH, Identity
from gateway.identity.grpc_guard import RequireIdentity
from gateway.listen.silero import SileroVad
from gateway.riva.asr import SpeechRecognition
from gateway.riva.health import SERVICES, Health
from gateway.riva.malformed import RefuseMalformed
from gateway.riva.models import ASR, TTS, SpeechModels
from gateway.riva.streams import CountStreams
from gateway.riva.traced import NameCalls
from gateway.riva.tts import SpeechSynthesis
from gateway.riva.tts_api.fleet_voices import FleetVoices
from gateway.riva.tts_api.make import add_tts_api
from gateway.riva.tts_api.service import NAME as TTS_API
from gateway.riva.tts_api.service import TtsService
from gateway.settings import ModelsSettings, TlsSettings, TritonSettings, TtsApiSettings
from gateway.telemetry.speech_metrics import SpeechMetrics
from gateway.tls.client import client_security
from gateway.tls.server import server_credentials
from gateway.triton.errors import TritonUnavailable
from gateway.triton.fleet.everywhere import Everywhere
from gateway.triton.fleet.fleet import Fleet
from gateway.triton.manager.events import Event, log_event
from gateway.triton.manager.types import LoadFailed

if TYPE_CHECKING:
    from gateway.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

_REFRESH_S = 5.0
_LAST_WORDS_S = 0.25
"""Before the grace is over, those who are still spoken to are told why they are cut."""
MAX_STREAMS = 1_000
_MAX_MESSAGE = 64 << 20
GRPC_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    # What a stream may hold here unread: 8 s of PCM16 at 16 kHz. Left to itself the window grows to megabytes.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 << 10),
    ("grpc.so_reuseport", 0),  # a taken port is an error, not a second listener
    # A client that vanished without a word is noticed, and its model released.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
]


class SpeechServer:
    """`start()`, then `stop()` once. Triton may come and go meanwhile: requests say so, health follows."""

    def __init__(
        self,
        triton: TritonSettings,
        models: ModelsSettings,
        listen_address: str,
        *,
        api: TtsApiSettings | None = None,
        max_streams: int = MAX_STREAMS,
        metrics: SpeechMetrics | None = None,
        on_event: Callable[[Event], None] = log_event,
        tls: TlsSettings | None = None,
        identity: Identity | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """listen_address: host:port, port 0 takes any. api: of parley.v1.Tts. tls: of the listener.

        max_streams: RPCs at a time; more are refused. metrics: count the open calls. identity: who may call; None: everybody. Raises: TritonError for addresses and policies that are none.
        """
        self._settings, self._models = triton, models
        self._listen_address = listen_address
        self._api = api or TtsApiSettings()
        self._max_streams = max_streams
        self._interceptors: list[grpc.aio.ServerInterceptor] = [RefuseMalformed(), NameCalls(tracing)]
        if identity is not None:
            self._interceptors.insert(0, RequireIdentity(identity, SPEECH))
        if metrics is not None:
            self._interceptors.append(CountStreams(metrics))
        self._tls = tls or TlsSettings()
        self.fleet = Fleet(
            triton.uri,
            models=models,
            repositories=triton.repositories,
            security=client_security(triton.tls, "Triton", on=triton.ssl),
            key=triton.repository_key.get_secret_value(),
            keeper=True,
            label=f"speech {socket.gethostname()}:{os.getpid()}",
            drain_s=triton.request_ms / 1000,
            on_event=on_event,
        )
        self._server: grpc.aio.Server | None = None
        self._vad: SileroVad | None = None
        self._tts: TtsService | None = None
        self._speech: SpeechModels | None = None
        self._watch: asyncio.Task[None] | None = None
        self._checks: Health | None = None

    async def start(self) -> str:
        """Returns the bound host:port. Raises OSError when the address cannot be bound, LoadFailed when a default
        model does not work. A Triton that does not answer yet is waited for in the background."""
        try:
            return await self._start()
        except BaseException:
            await self.stop(0)
            raise

    async def _start(self) -> str:
        host, _, port = self._listen_address.rpartition(":")
        credentials = server_credentials(self._tls, "Riva")
        server = self._server = grpc.aio.server(
            options=GRPC_OPTIONS, interceptors=self._interceptors, maximum_concurrent_rpcs=self._max_streams
        )
        try:
            if credentials is None:
                bound = server.add_insecure_port(self._listen_address)
            else:
                bound = server.add_secure_port(self._listen_address, credentials)
        except RuntimeError:
            bound = 0
        if bound == 0:
            raise OSError(
                f"cannot listen on {self._listen_address}: port {port} is taken, or the host is not ours"
            )
        try:
            await self.fleet.start()
        except LoadFailed:
            raise
        except TritonUnavailable as error:  # it may come: until then requests say so, and health does
            log.warning("the speech service has no Triton yet: %s", error)
        request_s = self._settings.request_ms / 1000
        speech = self._speech = SpeechModels(self.fleet, chunk_s=request_s)
        # No waiting for company here: audio also comes faster than it was spoken.
        vad = self._vad = SileroVad(tick_ms=0)
        linger_s = self._models.linger_s
        recognition = SpeechRecognition(speech, vad, chunk_deadline_s=request_s, linger_s=linger_s)
        riva_asr_pb2_grpc.add_RivaSpeechRecognitionServicer_to_server(recognition, server)
        riva_tts_pb2_grpc.add_RivaSpeechSynthesisServicer_to_server(
            SpeechSynthesis(speech, linger_s=linger_s), server
        )
        address = f"{host}:{bound}"
        self._tts = add_tts_api(
            server,
            Everywhere(self.fleet),
            FleetVoices(self.fleet, chunk_s=request_s),
            self._api,
            address=address,
            metrics=self._settings.metrics,
        )
        checks = self._checks = Health(speech)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        names = (*SERVICES, TTS_API, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        await server.start()
        await checks.update()
        self._watch = asyncio.create_task(_follow(checks), name="speech models")
        return address

    async def check(self) -> None:
        """Raises Refused or TritonError while neither a recogniser nor a voice can serve."""
        if self._speech is None:
            raise TritonUnavailable("the speech service is starting")
        await self._speech.refresh(max_age_s=1.0)
        if not any(self._speech.ready(family) for family in (ASR, TTS)):
            raise TritonUnavailable("Triton has no model for speech: load one (parley models load ...)")

    async def settled(self) -> None:
        """Returns once no model works for a client that went away."""
        await self.fleet.drains.close()

    async def stop(self, grace_s: float) -> None:
        """No new calls; those that run get `grace_s`. May be called twice."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
        if self._checks is not None:
            await self._checks.leave()
        server, self._server = self._server, None
        tts, self._tts = self._tts, None
        stopped = asyncio.create_task(server.stop(grace_s)) if server is not None else None
        if stopped is not None:
            await asyncio.wait({stopped}, timeout=max(0.0, grace_s - _LAST_WORDS_S))
        if tts is not None:
            await tts.close()
        if stopped is not None:
            await stopped
        await self.fleet.close()
        vad, self._vad = self._vad, None
        if vad is not None:
            await vad.close()


async def _follow(checks: Health) -> None:
    """Models come and go without telling: look now and then, for watchers and for the next request."""
    while True:
        await asyncio.sleep(_REFRESH_S)
        await checks.update()
