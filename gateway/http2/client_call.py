"""One streaming call on the client's side, with the methods of grpc.aio's StreamStreamCall that we use."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import grpc
import grpc.aio

from gateway.http2.messages import BadStream, Messages, TooBig

LARGEST_MESSAGE = 2**31 - 1
_AHEAD = 8
"""Messages that may wait to be read; beyond that the server's window is not opened again."""


WINDOW = 256 * 1024
"""Bytes that the server may send before we ask for more: a burst of a voice that is faster than real time."""
_CREDIT_AT = WINDOW // 4
"""More is asked for in pieces of this size."""


class Line(Protocol):
    """What a call needs of its connection."""

    def send_message(self, call: StreamCall, message: bytes) -> bool:
        """False, and nothing done, when it cannot leave at once."""
        ...

    def flush(self, call: StreamCall) -> None: ...

    def reset(self, call: StreamCall) -> None: ...

    def give_credit(self, call: StreamCall, credit: int) -> None: ...


class StreamCall:
    """Belongs to the event loop's thread. One reader, one writer.

    A reader or writer that is cancelled leaves the call as it is: `cancel` ends it."""

    def __init__(self, serialize: Callable[[Any], bytes], deserialize: Callable[[bytes], Any]) -> None:
        self._serialize, self._deserialize = serialize, deserialize
        self._loop = asyncio.get_running_loop()
        self._line: Line | None = None
        self._inbox: deque[bytes] = deque()
        self._messages = Messages(LARGEST_MESSAGE, compressed=False)
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._owed = 0
        self._status: grpc.aio.AioRpcError | None = None
        self._cancelled = False
        self.over = False
        """Its status has come, or it was cancelled: nothing more is sent."""
        self.stream = 0
        self.send_window = 0
        self.unsent: deque[memoryview] = deque()
        """What waits for the connection, or for the server's window."""
        self.half_closed = self.half_close_sent = False
        self.headers: dict[str, str] = {}

    # ---- for whoever calls ------------------------------------------------------------------------

    async def read(self) -> Any:
        """The next message; grpc.aio.EOF at the end, None for bytes that are no message.

        Raises AioRpcError, and CancelledError after `cancel`."""
        while not self._inbox:
            if self._cancelled:
                raise asyncio.CancelledError
            if self.over:
                if self._status is not None:
                    raise self._status
                return grpc.aio.EOF
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        raw = self._inbox.popleft()
        if self._owed >= _CREDIT_AT and len(self._inbox) < _AHEAD:
            self._pay()
        try:
            return self._deserialize(raw)
        except Exception:
            return None

    async def write(self, message: Any) -> None:
        """Returns once it is on its way. Raises InvalidStateError when the call is over; `read` knows why."""
        if self.over or self.half_closed:
            raise asyncio.InvalidStateError("the call takes no more messages")
        raw = self._serialize(message)
        if self._line is not None and not self.unsent and self._line.send_message(self, raw):
            return
        self.unsent.append(memoryview(b"\0" + len(raw).to_bytes(4, "big") + raw))
        await self._all_sent()

    async def done_writing(self) -> None:
        """No more messages will be written; those that were go first. Of a call that is over, nothing."""
        if not self.half_closed and not self.over:
            self.half_closed = True
            await self._all_sent()

    async def wait_for_connection(self) -> None:
        """A call takes messages from its beginning on."""

    def cancel(self) -> bool:
        """At once; False when it was over."""
        if self.over:
            return False
        self._cancelled = True
        self._inbox.clear()
        if self._line is not None:
            self._line.reset(self)
        self._end()
        return True

    def cancelled(self) -> bool:
        return self._cancelled

    def done(self) -> bool:
        return self.over

    # ---- for the connection -----------------------------------------------------------------------

    def begin(self, line: Line, stream: int, send_window: int) -> None:
        self._line, self.stream, self.send_window = line, stream, send_window
        line.flush(self)

    def receive(self, data: bytes, size: int) -> None:
        """size: of the frame, as flow control counts it. Raises nothing: what is no gRPC ends the call."""
        self._owed += size
        try:
            found = self._messages.feed(data)
        except (BadStream, TooBig) as error:
            if self._line is not None:
                self._line.reset(self)
            self.finish(grpc.StatusCode.INTERNAL, str(error))
            return
        self._inbox.extend(found)
        if self._owed >= _CREDIT_AT and len(self._inbox) < _AHEAD:
            self._pay()
        if found:
            _wake(self._reader)

    def finish(self, status: grpc.StatusCode, details: str = "") -> None:
        """The call's status; what came before it is still read."""
        if self.over:
            return
        if status is not grpc.StatusCode.OK:
            nothing = grpc.aio.Metadata()
            self._status = grpc.aio.AioRpcError(status, nothing, nothing, details)
        self._end()

    def note_sent(self) -> None:
        """Nothing is left in `unsent`."""
        _wake(self._writer)

    def _end(self) -> None:
        self.over = True
        self.unsent.clear()
        _wake(self._reader)
        _wake(self._writer)

    def _pay(self) -> None:
        if self._line is not None and not self.over:
            self._line.give_credit(self, self._owed)
        self._owed = 0

    async def _all_sent(self) -> None:
        if self._line is not None:
            self._line.flush(self)
        while self.unsent or (self.half_closed and not self.half_close_sent):
            if self.over:
                break
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None
        if self.over and not self.half_closed:
            raise asyncio.InvalidStateError("the call ended before the message had left")


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
