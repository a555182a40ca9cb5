"""HTTP/2 frames (RFC 9113 §4, §6), as far as this room reads and writes them itself."""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = struct.Struct(">IBI")
"""Length (24 bits) and type (8), flags, stream."""
HEAD_BYTES = HEAD.size

DATA, HEADERS, RST_STREAM, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 5, 6, 7, 8, 9
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0x0, 0x1, 0x2, 0x3
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0x6, 0x7, 0x8, 0xB

DEFAULT_WINDOW = 65_535
LARGEST_WINDOW = 2**31 - 1
LARGEST_FRAME = 16_384
"""What a peer may send us: we never announce more."""

_MESSAGE = struct.Struct(">IBIBI")
"""A frame's head, then gRPC's own: compressed flag, length."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def message_frame(stream: int, message: bytes) -> bytes:
    """A whole gRPC message in one DATA frame."""
    size = len(message)
    return _MESSAGE.pack((size + 5) << 8, 0, stream, 0, size) + message


def window_update(stream: int, credit: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, credit.to_bytes(4, "big"))


def goaway(last_stream: int, error: int) -> bytes:
    return frame(GOAWAY, 0, 0, last_stream.to_bytes(4, "big") + error.to_bytes(4, "big"))
