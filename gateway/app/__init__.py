"""Builds everything from Settings; the only place that knows all rooms.

One file a service: each has `start()`, which returns once it listens, `endpoints()` and `stop()`.
`process.serve_forever` runs one of them as a process does: uvloop, signals, a clean end.
"""

from gateway.app.address import split_address
from gateway.app.audio import OpenAiAudioService
from gateway.app.exposure import check_exposure, warn_exposure
from gateway.app.gateway import Gateway
from gateway.app.identity import identity_of
from gateway.app.listeners import listen_http
from gateway.app.process import Service, run_loop, serve_forever
from gateway.app.speech import Speech
from gateway.app.stand_in import StandInLlm

__all__ = [
    "Gateway",
    "OpenAiAudioService",
    "Service",
    "Speech",
    "StandInLlm",
    "check_exposure",
    "identity_of",
    "listen_http",
    "run_loop",
    "serve_forever",
    "split_address",
    "warn_exposure",
]
