"""A microphone as a client has one: 20 ms of room, user and echo at a time, sent when they are over.

Time is the event loop's. Frame k holds what sounds from `began` + 20·k ms on and leaves 20 ms later,
as a sound card would hand it over; so the times given here are those of the air, not of the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.speech import RATE, Clip
from gateway.audio.pcm import FRAME_MS
from gateway.cli.client import CallFailed, VoiceClient

Float = npt.NDArray[np.float32]
Source = Callable[[float, int], Float]
"""(time of the first sample, samples) → float32 [samples], −1…1, added to what else is heard."""

FRAME = RATE * FRAME_MS // 1000
_FRAME_S = FRAME_MS / 1000


@dataclass(frozen=True, slots=True)
class Said:
    clip: Clip
    began: float
    """When its first sample sounded."""

    @property
    def onset(self) -> float:
        return self.began + self.clip.onset_s

    @property
    def end(self) -> float:
        return self.began + self.clip.end_s


class Microphone:
    """Sends from `start()` to `stop()`; a late frame is caught up with, so the schedule never drifts."""

    def __init__(self, client: VoiceClient, sources: tuple[Source, ...] = ()) -> None:
        self._client = client
        self._sources = sources
        self._clip: Clip | None = None
        self._at = 0
        self._said: asyncio.Future[Said] | None = None
        self._began_clip = 0.0
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.began = 0.0
        self.sent_at: list[float] = []
        """When each frame left."""
        self.late_s = 0.0
        """The worst lateness of a frame: this process's, not the server's."""

    def start(self) -> None:
        self.began = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._run())

    def say(self, clip: Clip) -> asyncio.Future[Said]:
        """From the next frame on; done when its last sample was sent. One at a time.

        Raises (from the future) CallFailed when the stream is over.
        """
        assert self._clip is None, "one clip at a time"
        self._clip, self._at = clip, 0
        self._said = asyncio.get_running_loop().create_future()
        return self._said

    def wire_time(self, input_ms: float) -> float:
        """When the frame left that completed so many ms of input. Raises IndexError beyond what was sent."""
        return self.sent_at[max(0, -(-round(input_ms) // FRAME_MS) - 1)]

    async def stop(self) -> None:
        """After the frame that is being sent: gRPC ends the whole call when a write is cancelled."""
        self._stopping = True
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while not self._stopping:
                number = len(self.sent_at)
                sounds = self.began + number * _FRAME_S
                wait = sounds + _FRAME_S - loop.time()
                if wait > 0:
                    await asyncio.sleep(wait)
                else:
                    self.late_s = max(self.late_s, -wait)
                pcm = self._frame(sounds)
                self.sent_at.append(loop.time())
                await self._client.send_audio(pcm)
        except CallFailed as error:
            if self._said is not None and not self._said.done():
                self._said.set_exception(error)

    def _frame(self, sounds: float) -> bytes:
        mixed = np.zeros(FRAME, np.float32)
        for source in self._sources:
            mixed += source(sounds, FRAME)
        clip = self._clip
        if clip is not None:
            if self._at == 0:
                self._began_clip = sounds
            piece = clip.samples[self._at : self._at + FRAME]
            mixed[: len(piece)] += piece.astype(np.float32) / 32768
            self._at += FRAME
            if self._at >= len(clip.samples):
                self._clip = None
                if self._said is not None and not self._said.done():
                    self._said.set_result(Said(clip, self._began_clip))
        return (np.clip(mixed, -1, 1) * 32767).astype("<i2").tobytes()
