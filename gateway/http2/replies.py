"""The outgoing half of an HTTP/2 connection: what calls answer, within the peer's windows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

import grpc
from h2.config import H2Configuration
from h2.settings import SettingCodes, Settings

from gateway.http2 import frames
from gateway.http2.call import WINDOW, Call
from gateway.http2.metadata import OPENING, Header, status_headers
from gateway.http2.parting import Parting
from gateway.http2.rules import Rules

HEADERS_BYTES = 16 * 1024
"""What a call's headers may have, as HTTP/2 counts them (RFC 9113, section 6.5.2)."""
_MOST_HEADERS_BYTES = 128 * 1024
"""A call with more than it may have is refused; with more than this the connection ends. Behind a proxy calls of
many clients share a connection, and not every proxy keeps to what we say we take."""
_FLOOD_BYTES = 1024 * 1024
"""A peer that makes us answer (pings, settings, resets, calls that fail) and reads nothing is cut at this."""
_ONLY_GRPC = b"This address serves gRPC: POST with content-type application/grpc, over HTTP/2.\n"


class Calls(Protocol):
    """What a connection needs of its server."""

    max_message_bytes: int
    max_calls: int

    def begin(self, call: Call) -> None:
        """A call has come."""
        ...

    def joined(self, connection: Replies) -> None: ...

    def quiet(self, connection: Replies) -> None:
        """Its last call is over."""
        ...

    def left(self, connection: Replies) -> None: ...


class Replies:
    """Belongs to the event loop's thread. `Connection` adds the incoming half."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.peer = ""
        self._open: dict[int, Call] = {}
        self._transport: asyncio.Transport | None = None
        self._parting: Parting | None = None
        """Has the transport once the connection is done."""
        self._rules = _rules(calls.max_calls)
        self._guarded: set[int] = set()
        """Streams whose DATA h2 counts as well, since their headers promise a length."""
        self._last_stream = 0
        self._send_window = frames.DEFAULT_WINDOW
        self._first_window = frames.DEFAULT_WINDOW
        self._frame_bytes = frames.LARGEST_FRAME
        self._full = False
        self._refusing = False
        self._leaving = False
        """The peer has said goodbye."""
        self._reading = False
        """Frames that have come are being read, and what they ask for is still answered."""
        self._over = False
        """What still comes is not read."""
        self.greeted = False
        """The peer speaks HTTP/2."""
        self.heard = True
        """Something came since somebody last set this to False."""

    # ---- for calls --------------------------------------------------------------------------------

    def send_message(self, call: Call, message: bytes) -> bool:
        """See `Line`; only whole messages that fit one frame."""
        size = len(message) + 5
        if (
            size > call.send_window
            or size > self._send_window
            or size > self._frame_bytes
            or self._full
            or call.queued
            or self._transport is None
        ):
            return False
        call.send_window -= size
        self._send_window -= size
        self._transport.write(frames.message_frame(call.stream, message))
        return True

    def queue_message(self, call: Call, message: bytes) -> None:
        call.queued += b"\0" + len(message).to_bytes(4, "big") + message
        self._flush(call)

    def open_reply(self, call: Call, metadata: Iterable[Header]) -> None:
        if not call.opened and not call.closed:
            self._rules.send_headers(call.stream, [*OPENING, *metadata])
            call.opened = True
            self._write(self._rules.data_to_send())

    def close_reply(self, call: Call) -> None:
        if call.closed or call.lost:
            return
        call.closed = True
        trailers = status_headers(call.status or grpc.StatusCode.OK, call.details, call.trailing)
        headers = trailers if call.opened else [*OPENING, *trailers]
        self._rules.send_headers(call.stream, headers, end_stream=True)
        if not call.input_ended:  # what it still sends is not read
            self._rules.reset_stream(call.stream, frames.NO_ERROR)
        self._write(self._rules.data_to_send())
        self._forget(call)

    def reset(self, call: Call, error: int) -> None:
        self._reset(call, error, "the call was given up")

    def give_credit(self, call: Call, credit: int) -> None:
        if credit and call.stream in self._open:
            call.receive_window += credit
            self._write(frames.window_update(call.stream, credit))

    # ---- for the server ---------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """No call is open."""
        return not self._open

    def ping(self) -> None:
        self._write(frames.frame(frames.PING, 0, 0, b"\0" * 8))

    def refuse_calls(self) -> None:
        """From now on; the peer is told to go elsewhere, and those open go on."""
        if not self._refusing:
            self._refusing = True
            self._write(frames.goaway(self._last_stream, frames.NO_ERROR))
            self._close_if_done()

    def close(self) -> None:
        """What was written still leaves, and the peer gets `LINGER_S` to take it and to close its end."""
        self._over = True
        if self._transport is not None:
            self._parting, self._transport = Parting(self._transport), None

    def cut(self) -> None:
        """At once."""
        self._over = True
        if self._parting is not None:
            self._parting.cut()
        elif self._transport is not None:
            self._transport.abort()

    # ---- out --------------------------------------------------------------------------------------

    def _flush_all(self) -> None:
        for call in list(self._open.values()):
            if call.queued:
                self._flush(call)

    def _flush(self, call: Call) -> None:
        while call.queued and not self._full:
            size = min(len(call.queued), call.send_window, self._send_window, self._frame_bytes)
            if size <= 0:
                return
            call.send_window -= size
            self._send_window -= size
            self._write(frames.frame(frames.DATA, 0, call.stream, bytes(call.queued[:size])))
            del call.queued[:size]
        if not call.queued:
            call.note_drained()
            if call.plain_status:
                self._rules.end_stream(call.stream)
                self._write(self._rules.data_to_send())
                self._forget(call)

    def _reply_plainly(self, call: Call) -> None:
        """To what is no gRPC, such as a person with a browser or with curl."""
        headers = [(":status", call.plain_status), ("content-type", "text/plain"), ("allow", "POST")]
        self._rules.send_headers(call.stream, headers)
        self._write(self._rules.data_to_send())
        call.queued += _ONLY_GRPC
        self._flush(call)

    def refuse(self, call: Call, status: grpc.StatusCode, details: str) -> None:
        """The client has done what ends its call."""
        call.status, call.details = status, details
        call.queued.clear()
        call.trailing = ()
        self.close_reply(call)
        call.closed = False  # so that its task is ended too
        call.lose(details)
        call.closed = True

    def _reset(self, call: Call, error: int, why: str) -> None:
        if call.stream in self._open:
            self._rules.reset_stream(call.stream, error)
            self._write(self._rules.data_to_send())
            self._forget(call)
        call.lose(why)

    def _forget(self, call: Call) -> None:
        self._open.pop(call.stream, None)
        self._guarded.discard(call.stream)
        if not self._open:
            self._calls.quiet(self)
        self._close_if_done()

    def _close_if_done(self) -> None:
        if (self._refusing or self._leaving) and not self._open and not self._reading and not self._over:
            if not self._refusing:  # so that the peer knows what of its last words was heard
                self._write(frames.goaway(self._last_stream, frames.NO_ERROR))
            self.close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and data:
            self._transport.write(data)
            if self._full and self._transport.get_write_buffer_size() > _FLOOD_BYTES:
                self.cut()

    def _fail(self, error: int | None = None) -> None:
        """The peer broke the protocol: it is told so, and the connection ends."""
        if error is not None:
            self._rules.close_connection(error, last_stream_id=self._last_stream)
        self._write(self._rules.data_to_send())
        for call in list(self._open.values()):
            call.lose("the client broke HTTP/2's rules")
        self._open.clear()
        self.close()


def _rules(max_calls: int) -> Rules:
    rules = Rules(H2Configuration(client_side=False, header_encoding=None))
    rules.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
            SettingCodes.MAX_CONCURRENT_STREAMS: max_calls,
            SettingCodes.MAX_HEADER_LIST_SIZE: HEADERS_BYTES,
        },
    )
    rules.decoder.max_header_list_size = _MOST_HEADERS_BYTES
    return rules
