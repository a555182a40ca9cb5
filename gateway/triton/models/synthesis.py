"""One synthesis inside a voice model: what was asked, what is made, what is sent."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb

from gateway.triton.models.audio import FIRST_MS, MIN_MS, Chunks, Samples, Trim, at_full_scale, limited
from gateway.triton.models.turns import NEWCOMER_S, Turn, Turns
from gateway.triton.models.voices import Voice

HELD_MS = 2_000
"""Audio made ahead of its sending; then the engine's next piece of text waits."""
PORTION_MS = FIRST_MS + MIN_MS
"""Audio handed from the engine's thread to the loop at a time: as much as the first chunk waits for."""
LEAVE_S = 0.02
"""Longest rest of the engine until the first chunk has left."""
PARKED_S = 120.0
"""A call that waited this long in the middle of its work is given up: something is broken."""


class Reply:
    """The way back to who asked. Safe in any thread; each call is a round trip to the server.

    Triton forgets the request with its last response, and must not be asked about it after that.
    """

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._over = False

    def send(self, response: Any = None, *, last: bool = False) -> None:
        with self._lock:
            self._over = self._over or last
            flags = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
            if response is None:
                self._sender.send(flags=flags)
            else:
                self._sender.send(response, flags=flags)

    def is_cancelled(self) -> bool:
        """Whether the client has gone before the last response."""
        with self._lock:
            return not self._over and bool(self._sender.is_cancelled())


class Request:
    """What is needed of a request after Triton took its tensors back."""

    def __init__(self, request: Any) -> None:
        self.id = request.request_id()
        self.reply = Reply(request.get_response_sender())
        self.text = _string(request, "TEXT")
        self.voice = _string(request, "VOICE") or ""
        self.language = _string(request, "LANGUAGE") or ""
        speed = _values(request, "SPEED")
        self.speed = float(speed[0]) if speed is not None else 1.0
        cancel = _values(request, "CANCEL")
        self.cancel = cancel is not None and bool(cancel[0])
        reference = _values(request, "REFERENCE_AUDIO")
        # Triton takes its tensors back when this call returns.
        self.reference = None if reference is None else at_full_scale(reference)

    def fail(self, message: str, code: int) -> None:
        response = pb.InferenceResponse(output_tensors=[], error=pb.TritonError(message, code))
        self.reply.send(response, last=True)


class Stream:
    """One synthesis. Used on the loop, except `begin`, the call and `end`: those in an engine's thread."""

    def __init__(self, request: Request, voice: Voice, rate: int, turns: Turns, *, rests: bool) -> None:
        """rests: the engine bears that another synthesis works while this one waits in the call."""
        self.request = request
        self.voice = voice
        self.chunks = Chunks(rate)
        self.changed = asyncio.Event()
        self.room = asyncio.Event()
        self.cancelled = ""
        """How it was cancelled ("in-band", "vanished"); empty while it is wanted."""
        self.cancelled_at = 0.0
        self.free_after_s = 0.0
        """From the cancel until the engine was free of it; 0 where it was not at work."""
        self.error, self.code = "", 0
        self.sent = 0
        self.made_after_cancel = 0
        """Pieces the engine made, and chunks sent, after the cancel was known."""
        self._rate, self._rests = rate, rests
        self._trim = Trim(rate)
        self._loop = asyncio.get_running_loop()
        self._turns = turns
        self._woken, self._first_left = threading.Event(), threading.Event()
        self._turn = Turn(self._woken.set)
        self._arrived = time.monotonic()
        self._first_made = 0.0
        self._made = self._portion = 0
        self._fresh: list[Samples] = []
        self.room.set()

    @property
    def has_sound(self) -> bool:
        """Whether anything was made."""
        return self._made > 0

    def begin(self) -> bool:
        """Before a piece of text: waits for this stream's turn. False: it is no longer wanted."""
        self._wait(self._turns.ask(self._turn, self.due))
        return not self.cancelled

    def __call__(self, samples: np.ndarray[Any, Any], /) -> bool:
        """Takes int16 samples, and lets others go first who need the engine more. False: no more is wanted."""
        if self.cancelled:
            self.made_after_cancel += 1
            return False
        heard = limited(self._trim(samples.astype(np.float32) * (self.voice.gain / 32768)))
        self._fresh.append(heard)
        self._made += len(heard)
        self._portion += len(heard)
        is_first = not self._first_made
        if self._portion * 1000 >= PORTION_MS * self._rate:
            self._hand_over()
        if self._rests and is_first and self._first_made:
            # What is made next would only compete with the sending of what the listener waits for.
            self._turns.leave(self._turn)
            self._first_left.wait(LEAVE_S)
            self._wait(self._turns.ask(self._turn, self.due))
        elif self._rests:
            self._wait(self._turns.make_room(self._turn, self.due))
        return not self.cancelled

    def end(self) -> None:
        """After a piece of text."""
        self._turns.leave(self._turn)
        if self.cancelled_at:
            self.free_after_s = time.monotonic() - self.cancelled_at
        self._hand_over()

    def cancel(self, how: str) -> None:
        if not self.cancelled:
            self.cancelled, self.cancelled_at = how, time.monotonic()
        self._turns.call_off(self._turn)
        self._first_left.set()
        self.changed.set()
        self.room.set()

    def close(self, error: str = "", code: int = 0) -> None:
        """No more audio will come. code: Triton's, of the error."""
        self.error, self.code = error, code
        self.chunks.closed = True
        self.changed.set()

    async def wait(self, due: float) -> None:
        """Until a chunk is there and it is `due` (s, of the loop), or nobody wants it any more."""
        timer = None
        try:
            while not self.cancelled:
                if not self.chunks.ready():
                    pass
                elif self._loop.time() >= due:
                    return
                elif timer is None:
                    timer = self._loop.call_at(due, self.changed.set)
                self.changed.clear()
                await self.changed.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def take(self) -> tuple[Samples, bool]:
        chunk = self.chunks.take()
        self._look_at_room()
        return chunk

    def has_left(self) -> None:
        """A chunk was sent."""
        self.sent += 1
        if self.sent == 1:
            self._first_left.set()

    @property
    def wanted(self) -> bool:
        return not self.cancelled

    @property
    def due(self) -> float:
        """s, monotonic: when the listener has heard all that was made; in the past before the first sound."""
        if not self._first_made:
            return self._arrived - NEWCOMER_S
        return self._first_made + self._made / self._rate

    def _wait(self, granted: bool) -> None:
        if not granted:
            if not self._woken.wait(PARKED_S):
                raise TimeoutError("the engine was not free within two minutes; try again")
            self._woken.clear()

    def _hand_over(self) -> None:
        if not self._first_made and self._portion:
            self._first_made = time.monotonic()
        fresh, self._fresh, self._portion = self._fresh, [], 0
        self._loop.call_soon_threadsafe(self._put, fresh)

    def _put(self, fresh: list[Samples]) -> None:
        for samples in fresh:
            self.chunks.put(samples)
        self.changed.set()
        self._look_at_room()

    def _look_at_room(self) -> None:
        if self.chunks.ms <= HELD_MS or self.cancelled:
            self.room.set()
        else:
            self.room.clear()


def _values(request: Any, name: str) -> np.ndarray[Any, Any] | None:
    tensor = pb.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values: np.ndarray[Any, Any] = tensor.as_numpy().reshape(-1)
    return values if len(values) else None


def _string(request: Any, name: str) -> str | None:
    values = _values(request, name)
    return None if values is None else values[0].decode(errors="replace")
