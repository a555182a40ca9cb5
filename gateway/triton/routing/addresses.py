"""Where the Tritons are, or the speech services: a list of addresses, or names that stand for several."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from gateway.triton.errors import TritonError

log = logging.getLogger(__name__)

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to IP addresses. Raises: OSError."""

_RESOLVE_S = 5.0
_EACH = "dns:///"


@dataclass(frozen=True, slots=True)
class Target:
    """One item of the list as it is written."""

    text: str
    """host:port, or what gRPC alone understands."""
    host: str
    """"" where there is nothing to resolve."""
    port: int
    each: bool
    """Written as dns:///: every address is a server of its own, also when there is just one."""


@dataclass(frozen=True, slots=True)
class Place:
    """One server to dial."""

    address: str
    """host:port"""
    name: str
    """What its certificate is for, where that is not the address's own host; else ""."""


def parse_targets(text: str, what: str = "Triton") -> list[Target]:
    """ "a:8001,b:8001", "dns:///triton.default.svc:8001", "triton:8001". what: listens there, for people.

    Raises: TritonError.
    """
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise TritonError(f"no address of a {what} is given: write host:port")
    return list(dict.fromkeys(_target(item, what) for item in items))


async def find_places(
    targets: Sequence[Target], resolve: Resolve, before: dict[Target, list[Place]], what: str = "Triton"
) -> dict[Target, list[Place]]:
    """The servers of each target now. One that cannot be resolved keeps those it had `before`."""
    found = await asyncio.gather(*(_places(target, resolve, before.get(target), what) for target in targets))
    return dict(zip(targets, found, strict=True))


async def resolve_host(host: str, port: int) -> list[str]:
    """By the system's resolver, outside the event loop."""
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in infos]


def _target(item: str, what: str) -> Target:
    plain = item.removeprefix(_EACH)
    each = plain != item
    if (not each and "/" in plain) or plain.startswith("unix:"):
        return Target(item, "", 0, False)
    host, _, port = plain.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise TritonError(
            f"{item} is no address of a {what}: write host:port, several with commas between, or {_EACH}name:port"
        )
    fixed = _is_ip(host.strip("[]")) or host == "localhost"
    return Target(plain, "" if fixed else host, int(port), each and not fixed)


async def _places(target: Target, resolve: Resolve, before: list[Place] | None, what: str) -> list[Place]:
    as_written = [Place(target.text, "")]
    if not target.host:
        return as_written
    try:
        async with asyncio.timeout(_RESOLVE_S):
            found = _one_family(await resolve(target.host, target.port))
    except (OSError, UnicodeError) as error:  # a TimeoutError is an OSError
        log.warning(
            "the name of the %s at %s is not resolved: %s", what, target.text, error or "no answer from DNS"
        )
        found = []
    if not found:
        return before if before is not None else ([] if target.each else as_written)
    if len(found) == 1 and not target.each:
        return as_written
    return [
        Place(f"[{ip}]:{target.port}" if ":" in ip else f"{ip}:{target.port}", target.host) for ip in found
    ]


def _one_family(ips: list[str]) -> list[str]:
    """Where a name has both, every server has an address of each family: counting both would count it twice."""
    new, old = sorted({ip for ip in ips if ":" in ip}), sorted({ip for ip in ips if ":" not in ip})
    return new if len(new) > len(old) else old


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
