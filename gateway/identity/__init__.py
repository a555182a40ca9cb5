"""Who calls, whether they may, and how much: API keys, tokens of an issuer, client secrets.

`Identity` decides; `grpc_guard` and `asgi_guard` ask it for each call and answer in the protocol's own words.
"""

from gateway.identity.caller import (
    ADMIN,
    AUDIO,
    METRICS,
    SCOPES,
    SPEECH,
    VOICE,
    Caller,
    Denied,
    credential,
    current,
)  # fmt: skip
from gateway.identity.identity import ANYBODY, Identity, configured
from gateway.identity.keys import BadKeys

__all__ = [
    "ADMIN",
    "ANYBODY",
    "AUDIO",
    "METRICS",
    "SCOPES",
    "SPEECH",
    "VOICE",
    "BadKeys",
    "Caller",
    "Denied",
    "Identity",
    "configured",
    "credential",
    "current",
]
