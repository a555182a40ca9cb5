"""One call on the server's side. It has the methods of grpc.aio's ServicerContext that servicers use, so
that those of grpc's own packages (health, reflection) run on it as they are."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, NoReturn, Protocol

import grpc
import grpc.aio

from gateway.http2 import frames
from gateway.http2.messages import BadStream, Messages, Packed, TooBig
from gateway.http2.metadata import Header

WINDOW = 128 * 1024
"""What a call that is read slowly may hold here: 4 s of PCM16 at 16 kHz. A flood is not bought with our memory."""
_CREDIT_AT = WINDOW // 4
"""Credit is given back in pieces of this size."""


class CallOver(ConnectionError):
    """The client cancelled the call, or is gone."""


class Line(Protocol):
    """What a call needs of its connection."""

    peer: str
    """Address of the other end, without its port."""

    def send_message(self, call: Call, message: bytes) -> bool:
        """False, and nothing done, when it could not leave at once."""
        ...

    def queue_message(self, call: Call, message: bytes) -> None: ...

    def open_reply(self, call: Call, metadata: Iterable[Header]) -> None: ...

    def close_reply(self, call: Call) -> None: ...

    def reset(self, call: Call, error: int) -> None: ...

    def refuse(self, call: Call, status: grpc.StatusCode, details: str) -> None: ...

    def give_credit(self, call: Call, credit: int) -> None: ...


class Call:
    """Belongs to the event loop's thread. One reader; one writer at a time."""

    def __init__(
        self, line: Line, stream: int, method: str, metadata: tuple[Header, ...], messages: Messages
    ) -> None:
        self.stream, self.method = stream, method
        self._line = line
        self._metadata = metadata
        self._messages = messages
        self.began = asyncio.get_running_loop().time()
        self._inbox: deque[bytes] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._uncredited = self._owed = 0
        self.receive_window = WINDOW
        self.send_window = 0
        self.queued = bytearray()
        """gRPC bytes that wait for HTTP/2's flow control, or for the socket."""
        self._silent = True
        """Nothing of the input has come."""
        self.input_ended = False
        self.opened = False
        """The reply's headers are out."""
        self.closed = False
        """The trailers are out, or nothing more can be."""
        self.lost = ""
        """Why the client is gone; empty while it is not."""
        self.plain_status = ""
        """HTTP's, for a request that is no gRPC; else empty."""
        self.task: asyncio.Task[None] | None = None
        self.status: grpc.StatusCode | None = None
        self.details = ""
        self.trailing: tuple[Header, ...] = ()
        self.sink: Callable[[bytes], bool] | None = None
        """Offered each message first while `read` waits, and spares it the wake-up; False leaves it to `read`.
        Must not raise."""
        self.deserialize: Callable[[bytes], Any] | None = None
        self.serialize: Callable[[Any], bytes] | None = None

    @property
    def peer_address(self) -> str:
        """Of the connection's other end, without its port."""
        return self._line.peer

    # ---- for servicers ----------------------------------------------------------------------------

    async def read(self) -> Any:
        """The next message, or grpc.aio.EOF. Raises CallOver."""
        while not self._inbox:
            if self.lost:
                raise CallOver(self.lost)
            if self.input_ended:
                return grpc.aio.EOF
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        raw = self.take()
        if self.deserialize is None:
            return raw
        try:
            return self.deserialize(raw)
        except Exception:
            await self.abort(
                grpc.StatusCode.INTERNAL, "the request does not parse; check the client's proto file"
            )

    def take(self) -> bytes:
        """The next message, which there must be. Raises CallOver for one that cannot be unpacked."""
        raw = self._inbox.popleft()
        self._taken(len(raw))
        return self._unpacked(raw) if type(raw) is Packed else raw

    def _taken(self, size: int) -> None:
        """A message has left our hands."""
        credit = size + 5
        if credit > self._uncredited:
            credit = self._uncredited
        self._uncredited -= credit
        self._owed += credit
        if self._owed >= _CREDIT_AT:
            self._give_credit()
        elif self._uncredited >= _CREDIT_AT and not self._inbox:
            self._give_all_credit()

    @property
    def waiting(self) -> bool:
        """Whether `take` has one."""
        return bool(self._inbox)

    async def write(self, message: Any) -> None:
        """Returns once flow control has let it go. Raises CallOver."""
        raw: bytes = message if self.serialize is None else self.serialize(message)
        if self.lost or self.closed:
            raise CallOver(self.lost or "the call is over")
        if not self.opened:
            self._line.open_reply(self, ())
        if not self._line.send_message(self, raw):
            self._line.queue_message(self, raw)
            await self.drained()

    def write_now(self, raw: bytes) -> bool:
        """As `write`, but without waiting: False, and nothing done, if that would be needed."""
        return self.opened and not self.closed and not self.lost and self._line.send_message(self, raw)

    async def send_initial_metadata(self, metadata: Iterable[Header]) -> None:
        """Once; else `write` does it. Raises CallOver."""
        if self.lost or self.closed:
            raise CallOver(self.lost or "the call is over")
        self._line.open_reply(self, metadata)

    def set_trailing_metadata(self, metadata: Iterable[Header]) -> None:
        self.trailing = tuple(metadata)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", metadata: Iterable[Header] = ()
    ) -> NoReturn:
        """Ends the call with a status: let the error pass."""
        self.status, self.details = code, details
        self.trailing += tuple(metadata)
        raise grpc.aio.AbortError(details)

    def invocation_metadata(self) -> tuple[Header, ...]:
        return self._metadata

    def cancelled(self) -> bool:
        return bool(self.lost)

    def done(self) -> bool:
        return self.closed or bool(self.lost)

    async def requests(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    async def drained(self) -> None:
        """Returns when nothing is queued. Raises CallOver."""
        while self.queued and not self.lost:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)
        if self.lost:
            raise CallOver(self.lost)

    async def first_word(self, within_s: float) -> None:
        """Returns when something of the input has come, or it has ended, or after so long."""
        if not self._silent or self.input_ended or self.lost:
            return
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait({self._reader}, timeout=within_s)
        finally:
            self._reader = None

    # ---- for the connection -----------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Bytes of a DATA frame. Raises BadStream, TooBig."""
        self._silent = False
        self._uncredited += len(data)
        found = self._messages.feed(data)
        if found:
            reader = self._reader
            if reader is None or reader.done():
                self._inbox.extend(found)
            elif self.sink is None:
                self._inbox.extend(found)
                reader.set_result(None)
            elif not self._pour(found, self.sink):
                reader.set_result(None)
        elif not self._inbox and self._uncredited >= _CREDIT_AT:
            self._give_all_credit()

    def _pour(self, found: list[bytes], sink: Callable[[bytes], bool]) -> bool:
        """Whether the sink took them all; the rest is in the inbox."""
        for at, raw in enumerate(found):
            if type(raw) is Packed or not sink(raw):
                self._inbox.extend(found[at:])
                return False
            self._taken(len(raw))
        return True

    def owe(self, credit: int) -> None:
        """Bytes that nobody will read."""
        self._owed += credit
        if self._owed >= _CREDIT_AT:
            self._give_credit()

    def end_input(self) -> None:
        self.input_ended = True
        if self._messages.partial and not self.lost:
            raise BadStream("the call's input ends in the middle of a message")
        self._wake()

    def lose(self, why: str) -> None:
        """The client is gone, or wants no answer."""
        if self.lost:
            return
        self.lost = why
        self.queued.clear()
        self.note_drained()
        self._wake()
        if self.task is not None and not self.closed:
            self.task.cancel(why)

    def note_drained(self) -> None:
        if self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _unpacked(self, raw: Packed) -> bytes:
        try:
            return self._messages.unpacked(raw)
        except (BadStream, TooBig) as error:
            status = (
                grpc.StatusCode.RESOURCE_EXHAUSTED if isinstance(error, TooBig) else grpc.StatusCode.INTERNAL
            )
            self._line.refuse(self, status, str(error))
            raise CallOver(str(error)) from None

    def _give_all_credit(self) -> None:
        """For one message larger than what is open: the rest of it could not come."""
        self._owed += self._uncredited
        self._uncredited = 0
        self._give_credit()

    def _give_credit(self) -> None:
        credit, self._owed = self._owed, 0
        if not self.input_ended:
            self._line.give_credit(self, credit)


async def finish(call: Call, within_s: float) -> None:
    """Sends the status once everything written has left; a client that takes nothing gets none."""
    try:
        async with asyncio.timeout(within_s):
            await call.drained()
        call._line.close_reply(call)
    except TimeoutError:
        call._line.reset(call, frames.CANCEL)
    except CallOver:
        pass
