"""From a stream's bytes to gRPC messages: a flag, a length, a message, again and again."""

from __future__ import annotations

import zlib

_PREFIX = 5
_ANY_ZLIB = 47
"""Window bits with which zlib finds out by itself whether it reads gzip or deflate."""


class BadStream(Exception):
    """What came is not gRPC; the text says what is wrong."""


class TooBig(Exception):
    """A message beyond the limit; the text says how much is allowed."""


class Packed(bytes):
    """A message still compressed: it is unpacked when it is read, so that what waits stays small."""


class Messages:
    """Of one call's input."""

    __slots__ = ("_compressed", "_limit", "_part", "_wanted")

    def __init__(self, limit: int, *, compressed: bool) -> None:
        """limit: bytes a message may have, unpacked. compressed: the call's encoding is gzip or deflate."""
        self._limit = limit
        self._compressed = compressed
        self._part = bytearray()
        self._wanted = 0
        """Bytes that the part has once its message is whole."""

    @property
    def partial(self) -> bool:
        """A message has begun and is not whole."""
        return bool(self._part)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that this completes, some perhaps `Packed`. Raises BadStream, TooBig."""
        if self._part:
            self._part += data  # in place: a message in a million pieces is not copied a million times
            if len(self._part) < self._wanted:
                return []
            data = bytes(self._part)
            self._part = bytearray()
        size = len(data)
        if size > _PREFIX and data[0] == 0 and int.from_bytes(data[1:5], "big") == size - _PREFIX:
            if size - _PREFIX > self._limit:  # by far the most are one message in one frame
                raise self._too_big(size - _PREFIX)
            return [data[_PREFIX:]]
        return self._cut(data)

    def _cut(self, data: bytes) -> list[bytes]:
        found: list[bytes] = []
        at, self._wanted = 0, _PREFIX
        while len(data) - at >= _PREFIX:
            flag, size = data[at], int.from_bytes(data[at + 1 : at + 5], "big")
            if flag > 1:
                raise BadStream("a message begins with neither 0 nor 1: this is not gRPC")
            if size > self._limit:
                raise self._too_big(size)
            if flag and not self._compressed:
                raise BadStream("a message is compressed, but the call names no encoding in grpc-encoding")
            if len(data) - at - _PREFIX < size:
                self._wanted = _PREFIX + size
                break
            message = data[at + _PREFIX : at + _PREFIX + size]
            found.append(Packed(message) if flag else message)
            at += _PREFIX + size
        self._part += data[at:]
        return found

    def unpacked(self, message: Packed) -> bytes:
        """Raises BadStream, TooBig."""
        unpacker = zlib.decompressobj(_ANY_ZLIB)
        try:
            whole = unpacker.decompress(message, self._limit + 1)
        except zlib.error as error:
            raise BadStream(f"a compressed message cannot be unpacked: {error}") from None
        if len(whole) > self._limit:
            raise TooBig(f"the message has more than {self._limit} bytes when unpacked; so many are allowed")
        if not unpacker.eof:
            raise BadStream("a compressed message ends too early")
        if unpacker.unused_data:
            raise BadStream("a compressed message goes on after its end")
        return whole

    def _too_big(self, size: int) -> TooBig:
        return TooBig(f"the message has {size} bytes, {self._limit} are allowed")
