"""Who calls, where a proxy stands between: headers are believed from configured proxies alone.

`X-Forwarded-For` is de facto, `Forwarded` RFC 7239. Only the configured one is read: a proxy that sets one of them
passes the other on as the client wrote it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

X_FORWARDED, FORWARDED = "x-forwarded-for", "forwarded"
_PROTO = "x-forwarded-proto"
_MOST_HOPS = 32
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class BadProxies(OSError):
    """The setting is none; `str()` says which item and what to write."""


@dataclass(frozen=True, slots=True)
class Client:
    address: str
    """Without a port."""
    scheme: str
    """As the client spoke it: that of the connection, or what a believed proxy says."""


class TrustedProxies:
    def __init__(self, networks: Sequence[str], header: str = X_FORWARDED) -> None:
        """networks: addresses and CIDRs. header: X_FORWARDED or FORWARDED. Raises BadProxies."""
        self._networks = [_network(text) for text in networks]
        self._header = header

    def client(self, peer: str, scheme: str, headers: Mapping[str, str]) -> Client:
        """peer: the connection's other end. headers: names in lower case; several of one name joined by commas, in
        their order. Hops are read from the nearest; the first that is no proxy of ours is the client. What is
        no address, as `unknown`, ends the search."""
        found = Client(peer, scheme)
        if not self._networks or not self._trusts(peer) or not (told := headers.get(self._header, "")):
            return found
        hops = [hop.strip() for hop in told.split(",")][-_MOST_HOPS:]
        if self._header == X_FORWARDED:
            scheme = _scheme(headers.get(_PROTO, "").rpartition(",")[2], scheme)
        for hop in reversed(hops):
            pairs = _pairs(hop) if self._header == FORWARDED else {"for": hop}
            address = _address(pairs.get("for", ""))
            if address is None:
                break
            scheme = _scheme(pairs.get("proto", ""), scheme)
            found = Client(address, scheme)
            if not self._trusts(address):
                break
        return found

    def _trusts(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return any(ip in network for network in self._networks)


def _network(text: str) -> _Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise BadProxies(
            f"auth.trusted_proxies has {text!r}, which is no address and no network: write 10.0.0.0/8"
        ) from None


def _address(text: str) -> str | None:
    """ "192.0.2.7", "192.0.2.7:80", "2001:db8::7", "[2001:db8::7]:443"; None for what is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(
            ipaddress.ip_address(text.partition("%")[0])
        )  # behind it a zone: any text, and of no use here
    except ValueError:
        return None


def _scheme(text: str, otherwise: str) -> str:
    text = text.strip().lower()
    return text if text in ("http", "https") else otherwise


def _pairs(element: str) -> dict[str, str]:
    found = (pair.partition("=") for pair in element.split(";"))
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in found}
