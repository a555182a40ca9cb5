"""The client's end of one HTTP/2 connection. As on the server's end, h2 keeps the rules of headers and
settings, and DATA, WINDOW_UPDATE and PING never pass it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast
from urllib.parse import unquote

import grpc
from h2.config import H2Configuration
from h2.events import (
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from gateway.http2 import frames
from gateway.http2.client_call import WINDOW, StreamCall
from gateway.http2.metadata import Header, text
from gateway.http2.rules import Rules

_CONNECTION_WINDOW = 4 * 1024 * 1024
_UNSENT_BYTES = 64 * 1024
"""More than this in the socket's buffer: calls wait."""
_MOST_CALLS = 100_000
"""Of one connection in its life: stream numbers end at 2**31."""
_OF_HTTP = {
    "400": grpc.StatusCode.INTERNAL,
    "401": grpc.StatusCode.UNAUTHENTICATED,
    "403": grpc.StatusCode.PERMISSION_DENIED,
    "404": grpc.StatusCode.UNIMPLEMENTED,
    "429": grpc.StatusCode.UNAVAILABLE,
    "502": grpc.StatusCode.UNAVAILABLE,
    "503": grpc.StatusCode.UNAVAILABLE,
    "504": grpc.StatusCode.UNAVAILABLE,
}
_OF_RESET = {
    frames.CANCEL: grpc.StatusCode.CANCELLED,
    frames.REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
    frames.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    frames.NO_ERROR: grpc.StatusCode.UNAVAILABLE,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class ClientConnection(asyncio.Protocol):
    """Belongs to the event loop's thread."""

    def __init__(self, on_lost: Callable[[ClientConnection], None]) -> None:
        self._on_lost = on_lost
        self.why_lost = ""
        """What the connection was lost to, where the system or TLS says so."""
        self._rules = _rules()
        self._transport: asyncio.Transport | None = None
        self._open: dict[int, StreamCall] = {}
        self._stuck: set[StreamCall] = set()
        """Calls that wait for the socket or for the connection's window."""
        self._pending = b""
        self._in_headers = self._full = self._leaving = False
        self._send_window = self._first_window = frames.DEFAULT_WINDOW
        self._receive_window = _CONNECTION_WINDOW
        self._most_at_once = _MOST_CALLS
        self._begun = 0
        self._ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    @property
    def has_room(self) -> bool:
        """Another call may begin."""
        return (
            self._transport is not None
            and not self._leaving
            and len(self._open) < self._most_at_once
            and self._begun < _MOST_CALLS
        )

    async def ready(self) -> bool:
        """True once the server's settings are here; false when it never will be."""
        return await self._ready

    def begin(self, call: StreamCall, headers: list[Header]) -> None:
        """Ask `has_room` first."""
        stream = self._rules.get_next_available_stream_id()
        self._rules.send_headers(stream, headers)
        self._begun += 1
        self._open[stream] = call
        self._write(self._rules.data_to_send())
        call.begin(self, stream, self._first_window)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def cut(self) -> None:
        """Every call is cancelled."""
        for call in list(self._open.values()):
            call.cancel()
        self.close()

    def abort(self) -> None:
        """At once, without a goodbye."""
        if self._transport is not None:
            self._transport.abort()

    def watch_peer(self, idle_s: int, silent_ms: int) -> None:
        """A machine that is gone is noticed by the kernel: idle for `idle_s`, it is probed."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None:
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_NODELAY", 1),
            ("TCP_KEEPIDLE", idle_s),
            ("TCP_KEEPINTVL", max(1, silent_ms // 1000)),
            ("TCP_KEEPCNT", 1),
            ("TCP_USER_TIMEOUT", silent_ms),
        ):
            if (option := getattr(socket, name, None)) is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    # ---- of the event loop ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_UNSENT_BYTES)
        self._rules.initiate_connection()
        more = _CONNECTION_WINDOW - frames.DEFAULT_WINDOW
        self._transport.write(self._rules.data_to_send() + frames.window_update(0, more))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.why_lost = str(error) if error is not None else ""
        self._settle(False)
        lost, self._open = list(self._open.values()), {}
        for call in lost:
            call.finish(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._flush_all()

    def data_received(self, data: bytes) -> None:
        if self._pending:
            data = self._pending + data
            self._pending = b""
        try:
            self._read(data)
        except ProtocolError:
            self._fail()

    # ---- for calls --------------------------------------------------------------------------------

    def send_message(self, call: StreamCall, message: bytes) -> bool:
        size = len(message) + 5
        if self._full or size > frames.LARGEST_FRAME or size > call.send_window or size > self._send_window:
            return False
        call.send_window -= size
        self._send_window -= size
        self._write(frames.message_frame(call.stream, message))
        return True

    def flush(self, call: StreamCall) -> None:
        if call.over:
            return
        unsent = call.unsent
        while unsent and not self._full:
            piece = unsent[0]
            size = min(len(piece), frames.LARGEST_FRAME, call.send_window, self._send_window)
            if size <= 0:
                break
            self._write(frames.frame(frames.DATA, 0, call.stream, bytes(piece[:size])))
            call.send_window -= size
            self._send_window -= size
            if size < len(piece):
                unsent[0] = piece[size:]
            else:
                unsent.popleft()
        if unsent:
            self._stuck.add(call)
            return
        if call.half_closed and not call.half_close_sent:
            call.half_close_sent = True
            self._rules.end_stream(call.stream)
            self._write(self._rules.data_to_send())
        call.note_sent()

    def reset(self, call: StreamCall) -> None:
        if self._open.pop(call.stream, None) is None:
            return
        try:
            self._rules.reset_stream(call.stream, frames.CANCEL)
        except ProtocolError:  # it is over for h2
            return
        self._write(self._rules.data_to_send())
        self._close_if_done()

    def give_credit(self, call: StreamCall, credit: int) -> None:
        if credit and call.stream in self._open:
            self._write(frames.window_update(call.stream, credit))

    # ---- frames in --------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        at, end = 0, len(data)
        while end - at >= frames.HEAD_BYTES and self._transport is not None:
            head, flags, stream = frames.HEAD.unpack_from(data, at)
            size, kind = head >> 8, head & 0xFF
            if size > frames.LARGEST_FRAME:
                self._fail()
                return
            stop = at + frames.HEAD_BYTES + size
            if stop > end:
                break
            stream &= 0x7FFFFFFF
            if self._in_headers or kind not in (
                frames.DATA,
                frames.WINDOW_UPDATE,
                frames.PING,
                frames.GOAWAY,
            ):
                if kind in (frames.HEADERS, frames.CONTINUATION):
                    self._in_headers = not flags & frames.END_HEADERS
                self._pass_on(data[at:stop])
            elif kind == frames.DATA:
                self._on_data(stream, flags, data[at + frames.HEAD_BYTES : stop])
            elif kind == frames.WINDOW_UPDATE:
                self._on_window(stream, int.from_bytes(data[stop - 4 : stop], "big") & 0x7FFFFFFF)
            elif kind == frames.PING:
                if not flags & frames.ACK:
                    self._write(frames.frame(frames.PING, frames.ACK, 0, data[stop - 8 : stop]))
            else:
                self._on_goaway(int.from_bytes(data[at + 9 : at + 13], "big") & 0x7FFFFFFF)
            at = stop
        self._pending = data[at:] if at else data

    def _on_data(self, stream: int, flags: int, data: bytes) -> None:
        size = len(data)
        self._receive_window -= size
        if self._receive_window < _CONNECTION_WINDOW // 2:
            self._write(frames.window_update(0, _CONNECTION_WINDOW - self._receive_window))
            self._receive_window = _CONNECTION_WINDOW
        call = self._open.get(stream)
        if call is None:
            return  # of a call that was reset meanwhile
        if flags & frames.PADDED and data:
            data = data[1 : max(1, size - data[0])]
        call.receive(data, size)
        if flags & frames.END_STREAM:
            self._pass_on(frames.frame(frames.DATA, frames.END_STREAM, stream))

    def _on_window(self, stream: int, more: int) -> None:
        if stream == 0:
            self._send_window += more
            self._flush_all()
        elif (call := self._open.get(stream)) is not None:
            call.send_window += more
            if call.unsent:
                self.flush(call)

    def _on_goaway(self, last: int) -> None:
        """Calls up to `last` go on, which h2 would not let them."""
        self._leaving = True
        for stream in [stream for stream in self._open if stream > last]:
            self._open.pop(stream).finish(grpc.StatusCode.UNAVAILABLE, "the server went away")
        self._close_if_done()

    def _pass_on(self, raw: bytes) -> None:
        first_window = self._first_window
        for event in self._rules.receive_data(raw):
            self._on_event(event)
        # Settings are acknowledged before they are made use of.
        self._write(self._rules.data_to_send())
        if self._first_window != first_window:
            for call in list(self._open.values()):
                self.flush(call)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RemoteSettingsChanged):
            self._on_settings(event)
            return
        if not isinstance(event, ResponseReceived | TrailersReceived | StreamEnded | StreamReset):
            return
        stream = event.stream_id or 0
        call = self._open.get(stream)
        if call is None:
            return
        if isinstance(event, ResponseReceived | TrailersReceived):
            for name, value in event.headers or ():
                call.headers[text(name)] = text(value)
        else:
            del self._open[stream]
            if isinstance(event, StreamEnded):
                call.finish(*_status(call.headers))
                if not call.half_close_sent:  # the server wants no more: nor may the stream stay half open
                    self._rules.reset_stream(stream, frames.CANCEL)
            else:
                code = int(event.error_code or 0)
                status = _OF_RESET.get(code, grpc.StatusCode.INTERNAL)
                call.finish(status, f"the server reset the call (HTTP/2 error {code})")
            self._close_if_done()

    def _on_settings(self, event: RemoteSettingsChanged) -> None:
        changed = event.changed_settings
        if (window := changed.get(SettingCodes.INITIAL_WINDOW_SIZE)) is not None:
            grown, self._first_window = window.new_value - self._first_window, window.new_value
            for call in self._open.values():
                call.send_window += grown
        if (most := changed.get(SettingCodes.MAX_CONCURRENT_STREAMS)) is not None:
            self._most_at_once = most.new_value
        self._settle(True)

    def _flush_all(self) -> None:
        stuck, self._stuck = self._stuck, set()
        for call in stuck:
            self.flush(call)

    def _settle(self, ready: bool) -> None:
        if not self._ready.done():
            self._ready.set_result(ready)

    def _close_if_done(self) -> None:
        if self._leaving and not self._open:
            self.close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and data:
            self._transport.write(data)

    def _fail(self) -> None:
        """The server broke HTTP/2's rules, or is no HTTP/2 server."""
        self._leaving = True
        self._settle(False)
        self._write(self._rules.data_to_send())
        lost, self._open = list(self._open.values()), {}
        for call in lost:
            call.finish(grpc.StatusCode.UNAVAILABLE, "what answers does not speak gRPC")
        self.close()


def _rules() -> Rules:
    rules = Rules(H2Configuration(client_side=True, header_encoding=None))
    rules.local_settings = Settings(
        client=True,
        initial_values={
            SettingCodes.ENABLE_PUSH: 0,
            SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
            SettingCodes.MAX_HEADER_LIST_SIZE: 64 * 1024,
        },
    )
    return rules


def _status(headers: dict[str, str]) -> tuple[grpc.StatusCode, str]:
    """What a call's headers and trailers say of its end."""
    details = unquote(headers.get("grpc-message", ""))
    number = headers.get("grpc-status")
    if number is not None:
        known = int(number) if number.isdigit() else 2
        return _CODES.get(known, grpc.StatusCode.UNKNOWN), details
    http = headers.get(":status", "")
    if http != "200":
        return _OF_HTTP.get(http, grpc.StatusCode.UNKNOWN), f"Received http2 header with status: {http}"
    return grpc.StatusCode.UNKNOWN, "the stream ended without a status"
