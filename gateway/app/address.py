"""Addresses that our own servers listen on."""

from __future__ import annotations


def split_address(address: str) -> tuple[str, int]:
    """("127.0.0.1", 8080) of "127.0.0.1:8080". Raises OSError for what is none."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise OSError(f"{address!r} is no address to listen on; write host:port")
    return host, int(port)
