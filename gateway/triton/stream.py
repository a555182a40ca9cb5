"""One ModelStreamInfer call whose waits can be given up without gRPC noticing, and its drain."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from gateway.telemetry.context import trace_carrier
from gateway.triton.channel import GRPCInferenceServiceStub
from gateway.triton.codec import fresh_id, request
from gateway.triton.errors import (
    TritonError,
    TritonTimeout,
    TritonUnavailable,
    from_message,
    from_rpc,
)

_AHEAD = 8
"""Responses read before somebody asks; beyond that HTTP/2 flow control holds the model back."""


class Stream:
    """Requests to one decoupled model over one call, which is dialled on the first `send()`.

    grpc.aio cancels the whole RPC when a task is cancelled in `read()` or `write()`, so both run in
    tasks of their own that nobody cancels. One task reads the whole call, a few responses ahead: a task
    for each response cost twice as much as the response.
    """

    def __init__(self, stub: GRPCInferenceServiceStub, model: str, version: str = "") -> None:
        self.model, self.version = model, version
        self.pending = 0
        """Requests whose FINAL response has not come yet."""
        self.broken = False
        """The server reported an error: `pending` is no longer to be trusted."""
        self.over = False
        """The call has ended; nothing more comes."""
        self.answered = False
        """Something came that is no error."""
        self.on_over: Callable[[], None] = lambda: None
        """Called when nothing more of it will reach the model, CANCEL and END included; more than once, perhaps."""
        self.draining = False
        """`Drains` reads the rest."""
        self._stub = stub
        # The model sees no streams: it pairs a request with its CANCEL by this id alone.
        self._id = fresh_id()
        self.carrier = trace_carrier()
        """The trace context that the call carries along."""
        self._call: Any = None
        self._writing: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._replies: deque[pb.ModelStreamInferResponse | Exception | None] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._room = asyncio.Event()

    @property
    def opened(self) -> bool:
        return self._call is not None

    @property
    def finished(self) -> bool:
        """Every request sent so far has had its FINAL response, or the call is over."""
        return self.over or (self.pending == 0 and not self.broken)

    def send(self, message: pb.ModelInferRequest) -> None:
        """Queue a request; a failure to write shows in `next()`."""
        if self._call is None:
            options = {"metadata": self.carrier} if self.carrier else {}
            self._call = self._stub.ModelStreamInfer(**options)
        message.id = self._id
        message.parameters["triton_enable_empty_final_response"].bool_param = True
        self.pending += 1
        self._writing = asyncio.create_task(self._write(message, self._writing))

    def aside(self) -> Stream:
        """A call of its own to the same model, whose requests go by the same id."""
        other = Stream(self._stub, self.model, self.version)
        other._id = self._id
        return other

    def half_close(self) -> None:
        """Say that no more requests come. The server ends the call after the last response."""
        self._writing = asyncio.create_task(self._write(None, self._writing))

    def kill(self) -> None:
        """Cancel the RPC: only when the model says nothing any more."""
        if self._call is not None:
            self._call.cancel()
        self._replies.clear()
        self._room.set()
        self.over = True

    async def next(self, deadline_s: float) -> pb.ModelInferResponse | None:
        """The next response; None when the call has ended in good order. May be cancelled safely.

        Raises: TritonTimeout after deadline_s, TritonUnavailable, TritonError.
        """
        if self.over:
            return None
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_all())
        if not self._replies:
            await self._wait(deadline_s)
        reply = self._replies.popleft()
        self._room.set()
        if reply is None:
            self.over = True
            return None
        if isinstance(reply, Exception):
            self.over = True
            raise reply
        if reply.error_message:
            self.broken = True
            raise from_message(self.model, reply.error_message)
        response = reply.infer_response
        self.answered = True
        if response.parameters["triton_final_response"].bool_param:
            self.pending -= 1
        return response

    async def _wait(self, deadline_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timer = loop.call_later(max(0.0, deadline_s), _settle, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
        if not self._replies:
            raise TritonTimeout(f"{self.model}: no answer within {deadline_s:g} s")

    async def _write(self, message: pb.ModelInferRequest | None, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        try:
            if message is None:
                await self._call.done_writing()
            else:
                await self._call.write(message)
        except (Exception, asyncio.CancelledError):
            pass  # the call is over, which gRPC says in many ways; the reader learns why

    async def _read_all(self) -> None:
        reply: pb.ModelStreamInferResponse | Exception | None
        while True:
            try:
                reply = await self._call.read()
            except grpc.aio.AioRpcError as error:
                reply = from_rpc(self.model, error)
            except asyncio.CancelledError:
                reply = TritonUnavailable(f"{self.model}: the stream was cancelled")
            if reply is grpc.aio.EOF:
                reply = None
            elif reply is None:  # gRPC's word for bytes that it cannot parse: it keeps the call open
                self._call.cancel()
                reply = TritonUnavailable(f"{self.model}: what was sent is not Triton's API")
            self._replies.append(reply)
            if self._waiter is not None:
                _settle(self._waiter)
            if reply is None or isinstance(reply, Exception):
                return
            while len(self._replies) >= _AHEAD:
                self._room.clear()
                await self._room.wait()


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Drains:
    """Streams that nobody listens to any more, each read to its end within `deadline_s`.

    One per client object; `close()` before the channel is closed. It holds at most as many streams as
    were begun within the last `deadline_s` seconds.
    """

    def __init__(self, *, deadline_s: float = 5.0) -> None:
        self._deadline_s = deadline_s
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def take(self, stream: Stream, *, cancel: bool = True) -> None:
        """Bring a stream to its end in the background; returns at once. Given twice, it is taken once.

        cancel: tell the model first, unless it has answered everything.
        """
        # Two readers of one stream would wake each other's waits.
        if stream.draining:
            return
        if not stream.opened or stream.over:
            stream.on_over()
        else:
            stream.draining = True
            if cancel and not stream.finished and not stream.broken:
                self._cancel(stream)
            self.run(self._drain(stream))

    def _cancel(self, stream: Stream) -> None:
        """By a message to the model, which knows the request by its id.

        On a call of its own where the answer has begun: should the model have been unloaded meanwhile, Triton answers
        with an error, and where that comes beside a chunk that is still being written, the whole server aborts
        (proto_buffer_writer.h, "!byte_buffer->Valid()"). Before the first answer it must not overtake the request.
        """
        message = request(stream.model, {"CANCEL": np.array([True])}, version=stream.version)
        if stream.answered:
            aside = stream.aside()
            aside.send(message)
            aside.draining = True
            self.run(self._drain(aside))
        else:
            stream.send(message)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Keep a background task that ends by itself."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait until every stream has ended, or its deadline has."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _drain(self, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._deadline_s
        closing = False
        try:
            while not stream.over:
                if not closing and (stream.finished or stream.broken):
                    stream.half_close()
                    closing = True
                try:
                    await stream.next(end - loop.time())
                except TritonTimeout:
                    return
                except TritonError:
                    continue  # an error of the request, not of the call, unless `over` says so
        finally:
            if not stream.over:
                stream.kill()
            stream.on_over()
