"""The loopback rule: without credentials, Parley listens where only this machine can reach it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Iterable

from gateway.app.address import split_address
from gateway.identity import configured
from gateway.settings import Settings

log = logging.getLogger(__name__)

_TLS_IF_ASKED = ("admin", "speech_http")
"""Listeners that speak TLS only with `tls.admin`: without it, client certificates do not guard them."""


class Exposed(OSError):
    """A listener would be open to others; `str()` says what to do."""


async def check_exposure(settings: Settings, listeners: Iterable[str]) -> list[str]:
    """What must be said of these listeners before they open, a sentence each: with `auth.insecure`, who is let in.

    listeners: fields of `settings.listen`. Raises Exposed where one is not on a loopback address, nothing guards
    it, and `auth.insecure` is not set; OSError for what is no address.
    """
    said = []
    for key in listeners:
        if guarded(settings, key):
            continue
        address = str(getattr(settings.listen, key))
        if await is_loopback(address):
            continue
        if not settings.auth.insecure:
            raise Exposed(
                f"listen.{key} is {address}, which others can reach, and no credentials are configured: set "
                f"{'stand_in.api_key' if key == 'llm' else 'auth.keys or auth.jwt_issuer'}, or {_mtls(key)}, or listen on 127.0.0.1 (--insecure opens it to anybody)"
            )
        said.append(
            f"INSECURE: listen.{key} is open on {address} to anybody who can reach it, without any credentials"
        )
    return said


async def warn_exposure(settings: Settings, listeners: Iterable[str]) -> None:
    """As `check_exposure`; what must be said goes to the log."""
    for sentence in await check_exposure(settings, listeners):
        log.warning("%s", sentence)


def guarded(settings: Settings, key: str) -> bool:
    """Whether callers of the listener must show who they are."""
    tls = settings.tls
    # the stand-in knows no callers, but one key
    if settings.stand_in.api_key.get_secret_value() if key == "llm" else configured(settings.auth):
        return True
    wants_certificates = tls.cert is not None and tls.client_auth == "required"
    return wants_certificates and (tls.admin or key not in _TLS_IF_ASKED)


async def is_loopback(address: str) -> bool:
    """Whether all that host:port stands for is this machine alone. Raises OSError for what is no address."""
    host, port = split_address(address)
    host = host.strip("[]")
    try:
        return _loops(host)
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise OSError(f"cannot listen on {address}: {host} is no name of this machine ({error})") from None
    return all(_loops(str(one[4][0])) for one in found)


def _loops(ip: str) -> bool:
    found = ipaddress.ip_address(ip.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def _mtls(key: str) -> str:
    more = " and tls.admin" if key in _TLS_IF_ASKED else ""
    return f"ask for client certificates (tls.client_auth: required{more})"
