"""gRPC's words in HTTP/2 headers (github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

import grpc

Header = tuple[str, str]

ENCODINGS = ("identity", "deflate", "gzip")
OPENING: tuple[Header, ...] = (
    (":status", "200"),
    ("content-type", "application/grpc"),
    ("grpc-accept-encoding", ",".join(ENCODINGS)),
)
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNIT_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def timeout_s(value: str) -> float:
    """Seconds of a `grpc-timeout`. Raises ValueError for what is none."""
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise ValueError(f"grpc-timeout {value!r} is none; write for example 500m or 20S")
    return int(found[1]) * _UNIT_S[found[2]]


def status_headers(
    status: grpc.StatusCode, details: str = "", metadata: Iterable[Header] = ()
) -> list[Header]:
    """What closes a call."""
    headers = [("grpc-status", str(status.value[0]))]
    if details:
        headers.append(("grpc-message", quote(details, safe=_PLAIN, errors="replace")))
    return [*headers, *metadata]


def text(raw: bytes | str) -> str:
    """Of a header as h2 hands it out."""
    return raw if isinstance(raw, str) else raw.decode("latin-1")
