"""An SSLContext whose every handshake uses the certificates of that moment."""

from __future__ import annotations

import logging
import ssl
import time
from typing import Any

from gateway.tls.files import TlsError, Watched

log = logging.getLogger(__name__)

_SAY_EVERY_S = 5.0
"""Failed handshakes are told at most this often: anybody can cause them."""


class RotatingContext(ssl.SSLContext):
    """What asyncio, uvloop, uvicorn and aiohttp take as an SSLContext. They ask it for an object for each
    connection; it asks the context that is made of the files as they are now."""

    _watched: Watched[ssl.SSLContext]

    def __new__(cls, watched: Watched[ssl.SSLContext]) -> RotatingContext:
        self = super().__new__(cls, watched.current().protocol)
        self._watched = watched
        return self

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *arguments: Any, **options: Any
    ) -> ssl.SSLObject:
        made = self._watched.current().wrap_bio(incoming, outgoing, *arguments, **options)
        if isinstance(made, _Handshake):
            made.outgoing = outgoing
        return made

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        return self._watched.current().wrap_socket(*arguments, **options)


def told(context: ssl.SSLContext, subject: str) -> ssl.SSLContext:
    """The context; where a handshake fails, the log and the client are told why: of asyncio and uvloop neither is."""
    context.sslobject_class = type("Handshake", (_Handshake,), {"reporter": _Reporter(subject)})
    return context


class _Handshake(ssl.SSLObject):
    reporter: _Reporter
    outgoing: ssl.MemoryBIO | None = None
    _failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.reporter.failed(error)
            if self.outgoing is None or not self.outgoing.pending:
                raise
            # The loop drops what lies in `outgoing` when a handshake fails, and sends it when it is to go on: so
            # the alert leaves, and the failure comes with the client's next word, its end, or the time limit.
            self._failure = error
            raise ssl.SSLWantReadError from error


class _Reporter:
    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._silent_until, self._unsaid = 0.0, 0

    def failed(self, error: ssl.SSLError) -> None:
        now = time.monotonic()
        if now < self._silent_until:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more before)" if self._unsaid else ""
        self._silent_until, self._unsaid = now + _SAY_EVERY_S, 0
        why = getattr(error, "verify_message", "") or (error.reason or str(error)).replace("_", " ").lower()
        log.warning("%s: a TLS handshake failed: %s%s", self._subject, why, more)


def usable(make: ssl.SSLContext, what: str, load: Any, *arguments: Any, **options: Any) -> None:
    """Calls a `load_…` of the context. Raises TlsError."""
    try:
        load(make, *arguments, **options)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise TlsError(f"{what} cannot be used: {error}") from None
