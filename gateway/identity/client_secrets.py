"""Client secrets: what a server hands to a browser, so that the browser never holds an API key.

A secret is sealed (AES-256-GCM) under a key that all replicas share, so that any of them takes it and none keeps a
list. What is sealed: until when it is good, whose it is, and what its maker wants of the session.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets as random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.identity.caller import ADMIN, VOICE, Caller, Denied

PREFIX = "ek_"
_OWN_PREFIX = "pi_"
_OWN_S = 60
_NONCE = 12
_LONGEST = 12 * 1024
"""Characters of a secret: HTTP/2 headers are bounded to 16 KiB."""
MOST_SESSION_BYTES = 6 * 1024
"""JSON of the session's settings that a secret may carry."""
LEAST_KEY_CHARS = 32


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """What was sealed."""

    caller_id: str
    """Of the key or token that it was made with: revoking that one revokes it."""
    name: str
    expires_at: int
    """Unix time, s."""
    max_sessions: int = 0
    per_minute: int = 0
    session: Mapping[str, Any] | None = None

    def caller(self) -> Caller:
        return Caller(
            self.name,
            self.caller_id,
            frozenset({VOICE}),
            self.max_sessions,
            self.per_minute,
            temporary=True,
            session=self.session,
        )


class Sealer:
    """Seals and opens."""

    def __init__(self, sealing_key: str = "") -> None:
        """sealing_key: shared by all replicas; empty makes one that only this process knows.

        Raises ValueError for one that is too short to be any good.
        """
        if sealing_key and len(sealing_key) < LEAST_KEY_CHARS:
            raise ValueError(
                f"auth.sealing_key has {len(sealing_key)} characters: make one of at least {LEAST_KEY_CHARS}, "
                "for example with `openssl rand -base64 32`"
            )
        material = sealing_key.encode() or random.token_bytes(32)
        self._secret, self._own = (
            AESGCM(HKDF(SHA256(), 32, salt=None, info=purpose).derive(material))
            for purpose in (b"parley client secret", b"parley own token")
        )

    def seal(self, made: ClientSecret) -> str:
        """Raises ValueError for a session's settings that are too long."""
        inside: dict[str, Any] = {
            "e": made.expires_at,
            "i": made.caller_id,
            "n": made.name,
            "s": made.max_sessions,
            "m": made.per_minute,
        }
        if made.session:
            inside["c"] = made.session
            if len(_json(made.session)) > MOST_SESSION_BYTES:
                raise ValueError(f"`session` has more than {MOST_SESSION_BYTES} bytes: send less in it")
        return PREFIX + _sealed(self._secret, inside)

    def open(self, value: str, now: float) -> ClientSecret:
        """Raises Denied. now: Unix time, s."""
        inside = _opened(self._secret, value, PREFIX)
        if now >= inside["e"]:
            raise Denied("expired", "the client secret has expired: make a new one for each session")
        return ClientSecret(inside["i"], inside["n"], inside["e"], inside["s"], inside["m"], inside.get("c"))

    def own_token(self, now: float) -> str:
        """For a process of the same deployment, such as `parley drain` in a pod: scope admin, for a minute."""
        return _OWN_PREFIX + _sealed(self._own, {"e": int(now) + _OWN_S})

    def open_own(self, value: str, now: float) -> Caller:
        """Raises Denied."""
        if now >= _opened(self._own, value, _OWN_PREFIX)["e"]:
            raise Denied("expired", "the token of this deployment has expired: make a new one")
        return Caller("parley", "own", frozenset({ADMIN}))


def is_client_secret(value: str) -> bool:
    return value.startswith(PREFIX)


def is_own_token(value: str) -> bool:
    return value.startswith(_OWN_PREFIX)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _sealed(cipher: AESGCM, inside: Mapping[str, Any]) -> str:
    nonce = os.urandom(_NONCE)
    return base64.urlsafe_b64encode(nonce + cipher.encrypt(nonce, _json(inside), None)).rstrip(b"=").decode()


def _opened(cipher: AESGCM, value: str, prefix: str) -> dict[str, Any]:
    body = value.removeprefix(prefix)
    try:
        if len(value) > _LONGEST:
            raise ValueError
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        found: dict[str, Any] = json.loads(cipher.decrypt(raw[:_NONCE], raw[_NONCE:], None))
    except (ValueError, binascii.Error, InvalidTag):
        raise Denied(
            "unknown",
            "this server did not make that secret: replicas must share auth.sealing_key, and a new key ends old secrets",
        ) from None
    return found
