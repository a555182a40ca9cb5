"""TLS towards the parts that Parley calls."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from gateway.settings_tls import ClientTls
from gateway.tls.context import RotatingContext, usable
from gateway.tls.files import TlsError, Watched, read, read_authorities, read_pair

H2: tuple[str, ...] = ("h2",)
HTTP1: tuple[str, ...] = ("http/1.1",)


@dataclass(frozen=True, slots=True)
class _Pems:
    authorities: bytes | None
    chain: bytes | None
    key: bytes | None


class ClientSecurity:
    """How one part is called over TLS. New connections use the files as they are then; open calls go on."""

    def __init__(self, settings: ClientTls, subject: str) -> None:
        """subject: the part, as the log and errors name it. Raises TlsError for files that cannot be used."""
        if (settings.cert is None) is not (settings.key is None):
            raise TlsError(f"{subject}: tls.cert and tls.key go together: set both, or neither")
        self._settings, self._subject = settings, subject
        self._paths = [settings.ca, settings.cert, settings.key]
        self.name = settings.name
        """Host name that the certificate is for; empty where it is the address's own."""
        self._pems = Watched(f"TLS towards {subject}", self._paths, self._read)

    def version(self) -> int:
        """Changes when the files have."""
        self._pems.current()
        return self._pems.version

    def context(self, protocols: Sequence[str]) -> ssl.SSLContext:
        """For asyncio and aiohttp. protocols: what ALPN offers."""
        watched = Watched(f"TLS towards {self._subject}", self._paths, lambda: self._context(protocols))
        return RotatingContext(watched)

    def credentials(self) -> grpc.ChannelCredentials:
        """For a gRPC channel, which keeps them: another is to be made when `version` has changed."""
        now = self._pems.current()
        return grpc.ssl_channel_credentials(now.authorities or _system(), now.key, now.chain)

    def _read(self) -> _Pems:
        chain = key = None
        if self._settings.cert is not None and self._settings.key is not None:
            chain, key = read_pair(self._settings.cert, self._settings.key)
        ca = self._settings.ca
        return _Pems(read_authorities(ca) if ca is not None else None, chain, key)

    def _context(self, protocols: Sequence[str]) -> ssl.SSLContext:
        self._read()  # its sentences are clearer than OpenSSL's
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(list(protocols))
        ca, cert, key = self._paths
        if ca is None:
            context.load_default_certs()
        else:
            usable(context, f"{ca}", ssl.SSLContext.load_verify_locations, ca)
        if cert is not None:
            usable(context, f"{cert}", ssl.SSLContext.load_cert_chain, cert, key, "")
        return context


def client_security(settings: ClientTls, subject: str, *, on: bool) -> ClientSecurity | None:
    """None where TLS is off, which with a setting of it is a mistake worth a word. Raises TlsError."""
    if on:
        return ClientSecurity(settings, subject)
    if settings != ClientTls():
        raise TlsError(f"{subject} has tls settings, but TLS towards it is off: set ssl beside them")
    return None


def _system() -> bytes | None:
    """The system's trusted roots, which gRPC does not look for itself; None leaves it its own."""
    where = ssl.get_default_verify_paths().cafile
    try:
        return read(Path(where)) if where is not None else None
    except TlsError:
        return None
