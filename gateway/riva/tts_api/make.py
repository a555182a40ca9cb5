"""The TTS API as `parley serve speech` runs it."""

from __future__ import annotations

import socket

import grpc.aio

from gateway.protocol.tts_pb2_grpc import add_TtsServicer_to_server
from gateway.riva.tts_api.capabilities import About, gpus_from_metrics
from gateway.riva.tts_api.ports import Voices
from gateway.riva.tts_api.service import TtsService
from gateway.settings import TtsApiSettings
from gateway.triton.manager.types import Manager

_ANY_HOST = ("", "*", "0.0.0.0", "::", "[::]")


def add_tts_api(
    server: grpc.aio.Server,
    manager: Manager,
    voices: Voices,
    settings: TtsApiSettings,
    *,
    address: str,
    metrics: str = "",
) -> TtsService:
    """Call `close()` of what is returned when the server stops.

    address: host:port that this server listens on. metrics: host:port of Triton's metrics.
    """
    known_by = settings.address or reachable(address)
    about = About(settings.name or socket.gethostname(), known_by, gpus_from_metrics(metrics))
    service = TtsService(manager, voices, settings, about)
    add_TtsServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    return service


def reachable(address: str) -> str:
    """Where others find what listens on host:port: "every interface" is no place to go to."""
    host, _, port = address.rpartition(":")
    return f"{socket.gethostname()}:{port}" if host in _ANY_HOST else address
