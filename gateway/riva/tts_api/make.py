"""The TTS API as `parley serve speech` runs it."""

from __future__ import annotations

import socket

import grpc.aio

from gateway.protocol.tts_pb2_grpc import add_TtsServicer_to_server
from gateway.riva.tts_api.capabilities import About, gpus_from_metrics
from gateway.riva.tts_api.ports import Synthesis, Voices
from gateway.riva.tts_api.service import TtsService
from gateway.riva.tts_api.voices import ManagedVoices
from gateway.settings import TtsApiSettings
from gateway.triton.manager.types import Manager


def add_tts_api(
    server: grpc.aio.Server,
    manager: Manager,
    synthesize: Synthesis,
    settings: TtsApiSettings,
    *,
    address: str,
    metrics: str = "",
    voices: Voices | None = None,
) -> TtsService:
    """Call `close()` of what is returned when the server stops.

    address: host:port that this server is known by. metrics: host:port of Triton's metrics. voices: who chooses
    models for sessions; None: any model of the manager that has the voice.
    """
    about = About(settings.name or socket.gethostname(), address, gpus_from_metrics(metrics))
    service = TtsService(manager, voices or ManagedVoices(manager), synthesize, settings, about)
    add_TtsServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    return service
