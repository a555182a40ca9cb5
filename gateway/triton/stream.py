"""One ModelStreamInfer call whose waits can be given up without gRPC noticing, and its drain."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from typing import Any

import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from gateway.triton.channel import GRPCInferenceServiceStub
from gateway.triton.codec import request
from gateway.triton.errors import (
    TritonError,
    TritonTimeout,
    TritonUnavailable,
    from_message,
    from_rpc,
)


class Stream:
    """Requests to one decoupled model over one call, which is dialled on the first `send()`.

    grpc.aio cancels the whole RPC when a task is cancelled in `read()` or `write()`, so both run in
    tasks of their own that nobody cancels.
    """

    def __init__(self, stub: GRPCInferenceServiceStub, model: str) -> None:
        self.model = model
        self.pending = 0
        """Requests whose FINAL response has not come yet."""
        self.broken = False
        """The server reported an error: `pending` is no longer to be trusted."""
        self.over = False
        """The call has ended; nothing more comes."""
        self._stub = stub
        # The model sees no streams: it pairs a request with its CANCEL by this id alone.
        self._id = secrets.token_hex(8)
        self._call: Any = None
        self._writing: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[pb.ModelStreamInferResponse | Exception | None] | None = None

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
            self._call = self._stub.ModelStreamInfer()
        message.id = self._id
        message.parameters["triton_enable_empty_final_response"].bool_param = True
        self.pending += 1
        self._writing = asyncio.create_task(self._write(message, self._writing))

    def half_close(self) -> None:
        """Say that no more requests come. The server ends the call after the last response."""
        self._writing = asyncio.create_task(self._write(None, self._writing))

    def kill(self) -> None:
        """Cancel the RPC: only when the model says nothing any more."""
        if self._call is not None:
            self._call.cancel()
        self.over = True

    async def next(self, deadline_s: float) -> pb.ModelInferResponse | None:
        """The next response; None when the call has ended in good order. May be cancelled safely.

        Raises: TritonTimeout after deadline_s, TritonUnavailable, TritonError.
        """
        if self.over:
            return None
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        done, _ = await asyncio.wait({self._reading}, timeout=max(0.0, deadline_s))
        if not done:
            raise TritonTimeout(f"{self.model}: no answer within {deadline_s:g} s")
        reply = self._reading.result()
        self._reading = None
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
        if response.parameters["triton_final_response"].bool_param:
            self.pending -= 1
        return response

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

    async def _read(self) -> pb.ModelStreamInferResponse | Exception | None:
        try:
            reply = await self._call.read()
        except grpc.aio.AioRpcError as error:
            return from_rpc(self.model, error)
        except asyncio.CancelledError:
            return TritonUnavailable(f"{self.model}: the stream was cancelled")
        return None if reply is grpc.aio.EOF else reply


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
        """Bring a stream to its end in the background; returns at once.

        cancel: tell the model first, unless it has answered everything.
        """
        if stream.opened and not stream.over:
            if cancel and not stream.finished and not stream.broken:
                stream.send(request(stream.model, {"CANCEL": np.array([True])}))
            self.run(self._drain(stream))

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
