"""Uploaded recordings of any common format, decoded by FFmpeg in a thread, a few seconds at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import IO, Any, cast

import av
from av.audio.resampler import AudioResampler

from gateway.listen.asr import RATE
from gateway.openai_audio.errors import bad

_FORMATS = ("flac", "m4a", "mp3", "mp4", "mpeg", "mpga", "oga", "ogg", "wav", "webm")
_DEMUXERS = "wav,w64,flac,ogg,mp3,aac,mov,matroska,aiff,caf,mpeg"
"""Those that read one file: a playlist would make FFmpeg open what it names."""
_PIECE = 5 * RATE * 2
"""Bytes decoded in one go."""
_SENT = RATE // 2 * 2
"""Bytes in one message to the recogniser: half a second."""
_SHORTEST_S = 0.1


class Recording:
    """One upload. `await open()`, then `pieces()`; `await close()` whatever happens."""

    def __init__(self, file: IO[bytes], *, longest_s: float) -> None:
        """file: seekable, read in threads; stays open."""
        self._file, self._longest_s = file, longest_s
        self._container: Any = None
        self._decoded: Iterator[bytes] = iter(())
        self._working: asyncio.Future[Any] | None = None
        self._first = b""
        self._bytes = 0

    @property
    def seconds(self) -> float:
        """Decoded so far."""
        return self._bytes / (2 * RATE)

    async def open(self) -> None:
        """Decodes the first seconds. Raises ApiError for what holds no sound, or next to none."""
        await self._in_thread(self._open)
        self._first = await self._next()
        if self.seconds < _SHORTEST_S:
            raise bad(
                f"Audio file is too short. Minimum audio length is {_SHORTEST_S} seconds.",
                "file",
                "audio_too_short",
            )

    async def pieces(self) -> AsyncIterator[bytes]:
        """PCM16, mono, at 16 kHz. Raises ApiError for a recording that is too long."""
        piece = self._first
        while piece:
            if self.seconds > self._longest_s:
                raise bad(
                    f"The recording is longer than {self._longest_s:g} seconds: send it in parts.",
                    "file",
                    "audio_too_long",
                )
            for start in range(0, len(piece), _SENT):
                yield piece[start : start + _SENT]
            piece = await self._next()

    async def close(self) -> None:
        """Waits for the thread that decodes."""
        if self._working is not None:
            await asyncio.wait((self._working,))
            if not self._working.cancelled():
                self._working.exception()  # whoever asked is gone
        if self._container is not None:
            await asyncio.to_thread(self._container.close)
            self._container = None

    async def _next(self) -> bytes:
        piece: bytes = await self._in_thread(next, self._decoded, b"")
        self._bytes += len(piece)
        return piece

    async def _in_thread(self, work: Any, *args: Any) -> Any:
        """Shielded: a thread cannot be stopped, and the file must outlive it."""
        self._working = asyncio.ensure_future(asyncio.to_thread(work, *args))
        return await asyncio.shield(self._working)

    # ---- in a thread ----

    def _open(self) -> None:
        # Nothing that a file names is opened beside it.
        options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "pipe"}
        try:
            self._container = av.open(cast(Any, self._file), "r", options=options, metadata_errors="ignore")
            stream = next(iter(self._container.streams.audio), None)
        except (av.FFmpegError, ValueError, OSError) as error:
            raise _unreadable() from error
        if stream is None:
            raise bad("The file holds no audio: send a recording.", "file")
        self._decoded = _decode(self._container, stream)


def _decode(container: Any, stream: Any) -> Iterator[bytes]:
    """Pieces of some seconds. What is damaged in the middle is passed over, as players do."""
    resampler = AudioResampler(format="s16", layout="mono", rate=RATE)
    held = bytearray()
    for frame in _frames(container, stream):
        try:
            held += _pcm(resampler.resample(frame))
        except ValueError:  # the format changes in the middle of the stream
            held += _pcm(resampler.resample(None))
            resampler = AudioResampler(format="s16", layout="mono", rate=RATE)
            held += _pcm(resampler.resample(frame))
        if len(held) >= _PIECE:
            yield bytes(held)
            held.clear()
    held += _pcm(resampler.resample(None))
    if held:
        yield bytes(held)


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, ValueError):
            return  # cut short, or damaged from here on
        if packet is None:
            return
        try:
            yield from packet.decode()
        except (av.FFmpegError, ValueError):
            continue


def _pcm(frames: list[Any]) -> bytes:
    return b"".join(frame.to_ndarray().astype("<i2", copy=False).tobytes() for frame in frames)


def _unreadable() -> Exception:
    return bad(f"Invalid file format. Supported formats: {list(_FORMATS)}", "file", "unsupported_value")
