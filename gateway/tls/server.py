"""TLS of our own listeners."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

import grpc

from gateway.settings_tls import TlsSettings
from gateway.tls.context import RotatingContext, told, usable
from gateway.tls.files import TlsError, Watched, read_authorities, read_pair

H2: tuple[str, ...] = ("h2",)
HTTP1: tuple[str, ...] = ("http/1.1",)


def server_context(settings: TlsSettings, subject: str, protocols: Sequence[str]) -> ssl.SSLContext | None:
    """For asyncio's servers; None where TLS is not configured.

    protocols: what ALPN offers. TLS 1.2 and newer. Raises TlsError for files and settings that cannot be used.
    """
    if _off(settings):
        return None
    watched = Watched(subject, _paths(settings), lambda: _context(settings, subject, protocols))
    return RotatingContext(watched)


def server_credentials(settings: TlsSettings, subject: str) -> grpc.ServerCredentials | None:
    """For grpc.aio's servers; None where TLS is not configured. Raises TlsError.

    gRPC asks for client certificates and demands them, or does not ask: `optional` means the latter here.
    """
    if _off(settings):
        return None
    watched = Watched(subject, _paths(settings), lambda: _configuration(settings))
    given = watched.version

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """gRPC calls it at each handshake, on a thread of its own; None goes on with what it has."""
        nonlocal given
        configuration = watched.current()
        if watched.version == given:
            return None
        given = watched.version
        return configuration

    return grpc.dynamic_ssl_server_credentials(
        watched.current(),
        fetch,  # type: ignore[arg-type]  # None is gRPC's own word for: nothing new
        require_client_authentication=settings.client_auth == "required",
    )


def _off(settings: TlsSettings) -> bool:
    """Raises TlsError where half of it is set."""
    if settings.cert is None:
        if settings.key is not None or settings.client_auth != "off":
            raise TlsError("tls.key and tls.client_auth need tls.cert: name the certificate chain as well")
        return True
    if settings.key is None:
        raise TlsError("tls.cert is set and tls.key is not: name the private key as well")
    if settings.client_auth != "off" and settings.client_ca is None:
        raise TlsError(
            f"tls.client_auth is {settings.client_auth} and tls.client_ca is not set: name the bundle that signs "
            "clients' certificates"
        )
    return False


def _paths(settings: TlsSettings) -> list[Path | None]:
    return [settings.cert, settings.key, _client_ca(settings)]


def _client_ca(settings: TlsSettings) -> Path | None:
    return settings.client_ca if settings.client_auth != "off" else None


def _configuration(settings: TlsSettings) -> grpc.ServerCertificateConfiguration:
    assert settings.cert is not None
    assert settings.key is not None
    chain, key = read_pair(settings.cert, settings.key)
    authorities = None
    if settings.client_auth == "required" and settings.client_ca is not None:
        authorities = read_authorities(settings.client_ca)
    return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=authorities)


def _context(settings: TlsSettings, subject: str, protocols: Sequence[str]) -> ssl.SSLContext:
    assert settings.cert is not None
    assert settings.key is not None
    read_pair(settings.cert, settings.key)  # its sentences are clearer than OpenSSL's
    context = told(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), subject)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(protocols))
    usable(context, f"{settings.cert}", ssl.SSLContext.load_cert_chain, settings.cert, settings.key, "")
    if settings.client_auth != "off":
        assert settings.client_ca is not None
        read_authorities(settings.client_ca)
        usable(context, f"{settings.client_ca}", ssl.SSLContext.load_verify_locations, settings.client_ca)
        required = settings.client_auth == "required"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        # A session that is resumed would outlive the client's certificate.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    return context
