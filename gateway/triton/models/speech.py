"""A voice on Triton: the contract of a `tts_*` model around any engine that calls back with audio.

`execute` only enqueues. One loop thread keeps the streams; of the calls into the engine, as many work
at a time as the engine bears, those first whose listeners have the least to hear (turns.py). Audio
leaves as soon as the engine has made it, half a second at once, then at `pace` times real time:
hundreds of responses in one burst are what the server bears worst, and what a listener does not need.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import triton_python_backend_utils as pb

from gateway.triton.models.process import LoopThread, exit_with_parent, parameter
from gateway.triton.models.segments import segments
from gateway.triton.models.synthesis import Request, Stream
from gateway.triton.models.turns import Turns
from gateway.triton.models.voices import Engine, Imitator, NothingToSay, Refused, choose_voice

LEAD_MS = 500
"""Audio sent without pacing."""
LOOK_S = 0.13
"""How long the streams are left alone between two looks whether their clients are still there."""
LEAVING = 2
"""Times max_streams that streams may exist with those that were cancelled and that the engine is not free of yet."""
SENDERS = 2
"""Threads that hand chunks to the server: most of the time of each is spent waiting for it."""
MAX_CHARS = 20_000
READY_THREADS = 64
"""Threads that exist before they are needed: a crowd's first chunks would wait for their making."""
START_S = 10.0
SPEEDS = (0.5, 2.0)
REFERENCE_RATE, REFERENCE_S = 16_000, (0.5, 30.0)
FREE_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


class SpeechModel:
    """`initialize`, `execute` and `finalize` of a voice."""

    def __init__(
        self,
        args: dict[str, str],
        load: Callable[[], Engine],
        beside: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> None:
        """beside: outputs that go with every chunk."""
        exit_with_parent()
        config = json.loads(args["model_config"])
        self._name = str(config["name"])
        self._pace = float(parameter(config, "pace", "8"))
        self._max_streams = int(parameter(config, "max_streams", "128"))
        self._engine = load()
        said = int(parameter(config, "sample_rate"))
        if said != self._engine.rate:
            raise RuntimeError(
                f"{self._name}: sample_rate is {said} in config.pbtxt, {self._engine.rate} in truth"
            )
        self._streams: dict[str, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._speaking: set[Stream] = set()
        self._counters = Counters(self._name)
        self._beside = dict(beside or {})
        engine = self._engine
        self._turns = Turns(engine.threads, engine.threads if engine.rests and engine.threads > 1 else 0)
        # A stream has one call in hand, which holds a thread while it waits for its turn, too.
        self._calls = ThreadPoolExecutor(self._max_streams, thread_name_prefix="engine")
        _start_threads(self._calls, min(self._max_streams, READY_THREADS if engine.rests else engine.threads))
        # A round trip to the server takes longer than all else that the loop does for a chunk.
        self._senders = ThreadPoolExecutor(SENDERS, thread_name_prefix="sender")
        self._looker = ThreadPoolExecutor(1, thread_name_prefix="looker")
        self._thread = LoopThread("speech")
        self._thread.post(self._start_looking)

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            self._thread.post(self._take, Request(request))

    def finalize(self) -> None:
        async def end() -> None:
            self._looking.cancel()
            for stream in self._speaking:
                stream.cancel("unload")
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=2.0)

        self._thread.run(end(), 5.0)
        for pool in (self._calls, self._senders, self._looker):
            pool.shutdown(wait=True, cancel_futures=True)
        self._thread.stop()

    def _take(self, request: Request) -> None:
        if request.cancel:
            stream = self._streams.get(request.id)
            if stream is not None:
                stream.cancel("in-band")
            request.reply.send(last=True)
            return
        try:
            stream = self._open(request)
        except Refused as error:
            request.fail(str(error), pb.TritonError.INVALID_ARG)
            return
        if len(self._speaking) >= self._max_streams or len(self._tasks) >= LEAVING * self._max_streams:
            request.fail(
                f"{self._name} is speaking {self._max_streams} texts already; try again",
                pb.TritonError.UNAVAILABLE,
            )
            return
        if request.id:
            self._streams[request.id] = stream
        self._speaking.add(stream)
        task = asyncio.get_running_loop().create_task(self._speak(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _open(self, request: Request) -> Stream:
        if request.text is None:
            raise Refused("TEXT is missing; send TEXT, or CANCEL with the id of the request to stop")
        if len(request.text) > MAX_CHARS:
            raise Refused(f"TEXT has {len(request.text)} characters; at most {MAX_CHARS} are spoken at once")
        if not SPEEDS[0] <= request.speed <= SPEEDS[1]:
            raise Refused(f"SPEED is {request.speed:g}; {SPEEDS[0]:g} to {SPEEDS[1]:g} are possible")
        if request.reference is not None:
            self._check_reference(request.reference)
        if request.id in self._streams:
            raise Refused(f"a request with id {request.id} is being spoken; each needs an id of its own")
        voice = choose_voice(self._engine.voices, request.voice, request.language)
        return Stream(request, voice, self._engine.rate, self._turns, rests=self._engine.rests)

    def _check_reference(self, reference: np.ndarray[Any, Any]) -> None:
        if not isinstance(self._engine, Imitator) or not self._engine.imitates:
            raise Refused(f"{self._name} cannot imitate a voice; leave REFERENCE_AUDIO out")
        if not np.isfinite(reference).all():
            raise Refused("REFERENCE_AUDIO holds values that are no finite numbers")
        seconds = len(reference) / REFERENCE_RATE
        if not REFERENCE_S[0] <= seconds <= REFERENCE_S[1]:
            raise Refused(
                f"REFERENCE_AUDIO has {seconds:.1f} s at 16 kHz; {REFERENCE_S[0]:g} to {REFERENCE_S[1]:g} s are used"
            )

    async def _speak(self, stream: Stream) -> None:
        making = asyncio.get_running_loop().create_task(self._make(stream))
        try:
            await self._send(stream)
        except Exception as error:  # without its last response its client would wait in silence
            stream.request.fail(
                f"{self._name}: audio could not be sent: {error or type(error).__name__}",
                pb.TritonError.INTERNAL,
            )
        finally:
            stream.cancel("ended")
            self._free_id(stream)
            self._speaking.discard(stream)  # whoever comes now waits for the engine at most
            await asyncio.wait([making])  # its engine call holds a thread until then
            self._counters.add(stream)

    def _free_id(self, stream: Stream) -> None:
        if self._streams.get(stream.request.id) is stream:
            del self._streams[stream.request.id]

    async def _make(self, stream: Stream) -> None:
        """Piece by piece, so that a long text holds up nobody and is not made for nobody.

        A piece in another script is left out, as its letters are where they stand among others.
        """
        loop = asyncio.get_running_loop()
        unsaid: NothingToSay | None = None
        try:
            for piece in segments(stream.request.text or "", self._engine.piece_chars):
                await stream.room.wait()
                if stream.cancelled:
                    return
                try:
                    await loop.run_in_executor(self._calls, self._synthesize, stream, piece)
                except NothingToSay as error:
                    unsaid = error
            if unsaid is not None and not stream.has_sound:
                raise unsaid
        except Refused as error:
            stream.close(str(error), pb.TritonError.INVALID_ARG)
        except Exception as error:
            stream.close(f"{self._name}: {error}", pb.TritonError.INTERNAL)
        else:
            stream.close()

    def _synthesize(self, stream: Stream, piece: str) -> None:
        try:
            if stream.begin():
                asked = (piece, stream.voice, stream.request.speed, stream)
                if stream.request.reference is None:
                    self._engine.synthesize(*asked)
                else:
                    cast(Imitator, self._engine).imitate(*asked, stream.request.reference)
        finally:
            stream.end()

    async def _send(self, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        sent_ms = 0.0
        while True:
            await stream.wait(began + max(0.0, sent_ms - LEAD_MS) / 1000 / self._pace)
            if stream.cancelled:
                stream.request.reply.send(last=True)
                return
            chunk, last = stream.take()
            if last:  # its client may ask again, with the same id, as soon as it has this
                self._free_id(stream)
                self._speaking.discard(stream)
            if last and stream.error:
                stream.request.fail(stream.error, stream.code)
                return
            if sent_ms:
                await loop.run_in_executor(self._senders, self._deliver, stream, chunk, last)
            else:
                began = loop.time()
                self._deliver(stream, chunk, last)  # here and now: somebody waits in silence for it
            sent_ms += len(chunk) * 1000 / self._engine.rate
            stream.has_left()
            if last:
                return

    def _deliver(self, stream: Stream, chunk: np.ndarray[Any, Any], last: bool) -> None:
        beside = [pb.Tensor(name, value) for name, value in self._beside.items()]
        response = pb.InferenceResponse(output_tensors=[pb.Tensor("AUDIO", chunk), *beside])
        stream.request.reply.send(response, last=last)

    def _start_looking(self) -> None:
        self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        """Whose client vanished without a CANCEL is not spoken for any longer."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_S)
            streams = list(self._speaking)
            if streams:
                for stream in await loop.run_in_executor(self._looker, _vanished, streams):
                    stream.cancel("vanished")


class Counters:
    """What the model counts for itself, on Triton's metrics page."""

    def __init__(self, model: str) -> None:
        self._families: list[Any] = []  # a family must outlive its metrics
        labels = {"model": model}
        self._chunks = self._family("parley_tts_chunks_total", "Audio chunks sent").Metric(labels=labels)
        self._after_cancel = self._family(
            "parley_tts_chunks_after_cancel_total", "Chunks made after their stream was cancelled"
        ).Metric(labels=labels)
        self._free = self._family(
            "parley_tts_free_after_cancel_seconds",
            "From a cancel to an engine that is free of it",
            pb.MetricFamily.HISTOGRAM,
        ).Metric(labels=labels, buckets=list(FREE_S))
        cancelled = self._family("parley_tts_cancelled_total", "Streams that were cancelled")
        self._cancelled = {
            how: cancelled.Metric(labels={**labels, "how": how}) for how in ("in-band", "vanished")
        }

    def add(self, stream: Stream) -> None:
        """Once, when the stream has ended: each count is a round trip to the server."""
        self._chunks.increment(stream.sent)
        if stream.cancelled in self._cancelled:
            self._cancelled[stream.cancelled].increment(1)
            self._after_cancel.increment(stream.made_after_cancel)
            self._free.observe(stream.free_after_s)

    def _family(self, name: str, description: str, kind: Any = None) -> Any:
        kind = pb.MetricFamily.COUNTER if kind is None else kind
        family = pb.MetricFamily(name=name, description=description, kind=kind)
        self._families.append(family)
        return family


def _vanished(streams: list[Stream]) -> list[Stream]:
    gone = []
    for stream in streams:
        try:
            if stream.request.reply.is_cancelled():
                gone.append(stream)
        except Exception as error:  # the next look is the next try; the others are looked at all the same
            pb.Logger.log_warn(f"whether a client is still there could not be asked: {error}")
    return gone


def _start_threads(pool: ThreadPoolExecutor, count: int) -> None:
    """A pool makes a thread only while all others are at work."""
    gate = threading.Barrier(count + 1)
    for _ in range(count):
        pool.submit(gate.wait, START_S)
    gate.wait(START_S)
