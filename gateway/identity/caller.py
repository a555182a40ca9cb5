"""Who calls, what they may do, and how they are told that they may not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

VOICE, AUDIO, SPEECH, METRICS, ADMIN = "voice", "audio", "speech", "metrics", "admin"
SCOPES = (VOICE, AUDIO, SPEECH, METRICS, ADMIN)
"""voice: conversations, client secrets. audio: /v1/audio and /v1/models. speech: Riva and parley.v1.Tts.
metrics: /metrics. admin: sessions, draining, everything else that is for operators."""

Reason = Literal[
    "missing", "unknown", "expired", "revoked", "token", "issuer", "audience", "scope", "limit", "unavailable"
]


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody whose credential was good."""

    name: str
    """For people and logs: the key's name, or the token's subject. Never the credential."""
    id: str
    """What limits count by and what a revocation ends: of the key or the subject."""
    scopes: frozenset[str]
    max_sessions: int = 0
    """Calls at a time; 0: no limit."""
    per_minute: int = 0
    """Calls begun per minute; 0: no limit."""
    temporary: bool = False
    """Came with a client secret, with which no other can be made."""
    session: Mapping[str, Any] | None = None
    """What the maker of the client secret wants of its session, in OpenAI's words."""


class Denied(Exception):
    """A caller is not let in. `str()` is one sentence that says what to do; it never holds the credential."""

    def __init__(self, reason: Reason, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.retry_after_s = retry_after_s
        """When it may work, where waiting helps (limits, an issuer that does not answer); else None."""


current: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Who the current task works for; tasks inherit it. None outside of calls that were checked."""


REVOKED = "the API key was revoked: ask its maker for a new one"


def shown(pairs: Iterable[tuple[str, str]]) -> str:
    """What a call's headers or metadata show; names in lower case. Several of one name count as one with commas
    (RFC 9110, section 5.3), which is no credential: nobody picks the one that another did not look at."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in ("authorization", "x-api-key"):
            found[name] = f"{found[name]}, {value}" if name in found else value
    return credential(found.get("authorization", ""), found.get("x-api-key", ""))


def credential(authorization: str, api_key: str = "") -> str:
    """What a caller shows: of `authorization: Bearer …`, else of `x-api-key`; "" when there is neither."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "bearer" and given.strip():
        return given.strip()
    return api_key.strip()
