"""Sealed bytes: nobody but those who share the key reads or changes what the client keeps for us.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce for each message, under a key derived from
`auth.sealing_key` by HKDF-SHA256 (RFC 5869).
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_VERSION = b"\x01"
_NONCE = 12
OVERHEAD = len(_VERSION) + _NONCE + 16
"""Bytes that sealing adds."""


class Seal:
    def __init__(self, key: str, purpose: bytes) -> None:
        """key: the secret that replicas share; empty: a random one, which no other process knows.
        purpose: sealed for one, it does not open for another."""
        secret = key.encode() or os.urandom(32)
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(secret)
        self._cipher, self._purpose = AESGCM(derived), purpose

    def seal(self, plain: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plain, self._purpose)

    def open(self, sealed: bytes) -> bytes:
        """Raises ValueError when it was not sealed with this key for this purpose, or was changed since."""
        if len(sealed) < OVERHEAD or not sealed.startswith(_VERSION):
            raise ValueError("no sealed message")
        nonce, body = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
        try:
            return self._cipher.decrypt(nonce, body, self._purpose)
        except InvalidTag:
            raise ValueError("sealed with another key, or changed") from None
