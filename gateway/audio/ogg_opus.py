"""Ogg Opus read as it arrives (RFC 3533, RFC 7845); encoders.py writes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.codec.context import CodecContext

from gateway.audio.pcm import Int16
from gateway.audio.samples import BadAudio

RATE = 48_000
"""Hz of everything that comes out of an Opus decoder."""
_LONGEST_PACKET = 61_440
"""Bytes: the largest packet RFC 7845 asks a decoder to take."""
_LONGEST_TAGS = 1 << 20
_BEGINS, _ENDS, _CONTINUED = 2, 4, 1


class OggOpusDecoder:
    """Push bytes, get the first channel as int16 at 48 kHz. Chained streams are played one after another."""

    def __init__(self) -> None:
        self.rate = RATE
        self._buffer = bytearray()
        self._serial: int | None = None
        self._packet = bytearray()
        self._headers = 0
        self._codec: AudioCodecContext | None = None
        self._pre_skip = 0
        self._emitted = 0
        self._heard = False

    def feed(self, data: bytes) -> Iterator[Int16]:
        """Audio as it is complete. Raises BadAudio."""
        self._buffer += data
        while (page := self._next_page()) is not None:
            yield from self._read_page(page)

    def flush(self) -> Iterator[Int16]:
        """Raises BadAudio when the stream ended before its first audio."""
        if not self._heard:
            raise BadAudio("the Ogg stream ends before any Opus audio: send the whole file")
        return iter(())

    def _next_page(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < 27:
            return None
        if buffer[:4] != b"OggS" or buffer[4] != 0:
            raise BadAudio("the Ogg stream is damaged: a page does not begin where the last one ended")
        segments = buffer[26]
        if len(buffer) < 27 + segments:
            return None
        size = 27 + segments + sum(buffer[27 : 27 + segments])
        if len(buffer) < size:
            return None
        page = bytes(buffer[:size])
        del buffer[:size]
        return page

    def _read_page(self, page: bytes) -> Iterator[Int16]:
        flags = page[5]
        granule = int.from_bytes(page[6:14], "little", signed=True)
        serial = int.from_bytes(page[14:18], "little")
        if flags & _BEGINS and self._serial is None:
            self._serial, self._headers, self._emitted = serial, 0, 0
            self._packet.clear()
        if serial != self._serial:
            return
        if not flags & _CONTINUED:
            self._packet.clear()
        ends = bool(flags & _ENDS)
        length = granule - self._pre_skip if ends and granule > 0 else 1 << 62
        for packet in self._packets(page):
            for samples in self._read_packet(packet):
                kept = samples[: max(0, length - self._emitted)]
                self._emitted += samples.size
                if kept.size:
                    self._heard = True
                    yield kept
        if ends:
            self._serial = None

    def _packets(self, page: bytes) -> Iterator[bytes]:
        """The packets that this page completes; the last one may go on in the next page."""
        start = 27 + page[26]
        for size in page[27:start]:
            self._packet += page[start : start + size]
            start += size
            if len(self._packet) > (_LONGEST_PACKET if self._headers >= 2 else _LONGEST_TAGS):
                raise BadAudio("the Ogg stream is damaged: a packet is longer than Opus packets are")
            if size < 255:
                packet = bytes(self._packet)
                self._packet.clear()
                yield packet

    def _read_packet(self, packet: bytes) -> Iterator[Int16]:
        self._headers += 1
        if self._headers == 1:
            self._open(packet)
            return
        if self._headers == 2:
            if packet[:8] != b"OpusTags":
                raise BadAudio("the Ogg Opus stream is damaged: its second packet is not OpusTags")
            return
        if not packet or self._codec is None:
            return
        try:
            frames = self._codec.decode(av.Packet(packet))
        except (av.FFmpegError, ValueError) as error:
            raise BadAudio("the Ogg Opus stream is damaged: a packet cannot be decoded") from error
        for frame in frames:
            samples = frame.to_ndarray().ravel()[:: len(frame.layout.channels)]
            yield cast(Int16, np.ascontiguousarray(samples, np.int16))

    def _open(self, head: bytes) -> None:
        if head[:8] != b"OpusHead" or len(head) < 19:
            raise BadAudio("the Ogg stream holds no Opus: encode it as Opus, or send WAV or FLAC")
        if head[18] != 0 or head[9] not in (1, 2):
            raise BadAudio(f"Ogg Opus with {head[9]} channels is not supported: send mono or stereo")
        self._pre_skip = int.from_bytes(head[10:12], "little")
        self._codec = CodecContext.create("libopus", "r")
        self._codec.extradata = head
