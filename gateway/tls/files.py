"""What is made of certificate files, and made again when they have changed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization

log = logging.getLogger(__name__)
T = TypeVar("T")
_Signature = tuple[tuple[int, ...] | None, ...]
_SPKI = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


class TlsError(OSError):
    """Certificate files cannot be used; `str()` is one sentence that says which and why."""


class Watched(Generic[T]):
    """`current()` looks at the files (a `stat` each, also through symbolic links that are swapped) and makes anew
    what depends on them. Files that cannot be used leave what there was, with a line in the log. Any thread."""

    def __init__(self, subject: str, paths: Sequence[Path | None], make: Callable[[], T]) -> None:
        """subject: as the log names it. make: raises TlsError. Raises TlsError where there is nothing yet."""
        self._subject, self._make = subject, make
        self._paths = [path for path in paths if path is not None]
        self._lock = threading.Lock()
        # The signature before the content: what is replaced in between is read again the next time.
        self._seen = _signature(self._paths)
        self._made = make()
        self.version = 1
        """Counts what was made."""

    def current(self) -> T:
        with self._lock:
            seen = _signature(self._paths)
            if seen != self._seen:
                self._seen = seen
                try:
                    self._made = self._make()
                except TlsError as error:
                    log.error(
                        "%s: the new certificate files are not used, the old ones are: %s",
                        self._subject,
                        error,
                    )
                else:
                    self.version += 1
                    log.info("%s: new certificate files are used from now on", self._subject)
            return self._made


def read_pair(cert: Path, key: Path) -> tuple[bytes, bytes]:
    """(chain, private key) in PEM, which belong together. Raises TlsError."""
    chain, secret = read(cert), read(key)
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        raise TlsError(f"{cert} holds no certificate in PEM") from None
    try:
        private = serialization.load_pem_private_key(secret, password=None)
    except TypeError:
        raise TlsError(f"the private key in {key} has a password; store it without one") from None
    except (ValueError, NotImplementedError):
        raise TlsError(f"{key} holds no private key in PEM") from None
    if private.public_key().public_bytes(*_SPKI) != leaf.public_key().public_bytes(*_SPKI):
        raise TlsError(f"the private key in {key} is not that of the certificate in {cert}")
    return chain, secret


def read_authorities(path: Path) -> bytes:
    """A bundle of certificates in PEM. Raises TlsError."""
    bundle = read(path)
    try:
        x509.load_pem_x509_certificates(bundle)
    except ValueError:
        raise TlsError(f"{path} holds no certificate in PEM") from None
    return bundle


def read(path: Path) -> bytes:
    """Raises TlsError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path} cannot be read: {error.strerror}") from None


def _signature(paths: Sequence[Path]) -> _Signature:
    return tuple(map(_one, paths))


def _one(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
