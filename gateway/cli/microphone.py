"""A microphone made of files: 20 ms frames on an absolute schedule, silence between the clips."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from gateway.audio.pcm import FRAME_MS, frame_bytes
from gateway.cli.client import CallFailed, VoiceClient
from gateway.cli.steady import SteadyClient


@dataclass(slots=True)
class _Clip:
    pcm: bytes
    at: int
    """Bytes sent."""
    began: float
    done: asyncio.Future[tuple[float, float]]


class SteadyMicrophone:
    """Sends from `start()` to `stop()`. A late frame is caught up with, so the schedule never drifts."""

    def __init__(self, client: VoiceClient | SteadyClient, *, record: bool = False) -> None:
        self._client = client
        self._rate = client.hello.input_rate
        self._frame = frame_bytes(self._rate)
        self._clips: deque[_Clip] = deque()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.began = 0.0
        """Loop time (s) at which the first frame was due."""
        self.sent: bytearray | None = bytearray() if record else None
        """Everything sent, when recording."""
        self.late_s = 0.0
        """The worst lateness of a frame: this machine's, not the server's."""

    def start(self) -> None:
        self.began = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._run())

    async def say(self, pcm: bytes) -> tuple[float, float]:
        """Queue PCM16 at the session's input rate; returns once sent, with the loop times at which its
        first sample was due and its last had passed. Raises CallFailed when the stream is over."""
        clip = _Clip(pcm, 0, 0.0, asyncio.get_running_loop().create_future())
        if self._task is None or self._task.done():
            raise CallFailed("the microphone is off")
        self._clips.append(clip)
        return await clip.done

    async def stop(self) -> None:
        """After the frame that is being sent: gRPC ends the whole call when a write is cancelled."""
        self._stopping = True
        if self._task is not None:
            await asyncio.wait({self._task})
        self._release()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        step = FRAME_MS / 1000
        number = 0
        try:
            while not self._stopping:
                due = self.began + number * step
                wait = due - loop.time()
                if wait > 0:
                    await asyncio.sleep(wait)
                else:
                    self.late_s = max(self.late_s, -wait)
                frame = self._next_frame(due)
                if self.sent is not None:
                    self.sent += frame
                await self._client.send_audio(frame)
                number += 1
        except CallFailed:
            return  # whoever reads the stream hears why
        finally:
            self._release()

    def _next_frame(self, due: float) -> bytes:
        frame = b""
        while self._clips and len(frame) < self._frame:
            clip = self._clips[0]
            if clip.at == 0:
                clip.began = due
            piece = clip.pcm[clip.at : clip.at + self._frame - len(frame)]
            clip.at += len(piece)
            frame += piece
            if clip.at >= len(clip.pcm):
                self._clips.popleft()
                if not clip.done.done():
                    clip.done.set_result((clip.began, clip.began + len(clip.pcm) / (2 * self._rate)))
        return frame.ljust(self._frame, b"\0")

    def _release(self) -> None:
        while self._clips:
            clip = self._clips.popleft()
            if not clip.done.done():
                clip.done.set_exception(CallFailed("the stream ended before everything was said"))
