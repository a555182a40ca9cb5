"""One HTTP/2 connection. The package h2 keeps the rules: preface, settings, headers, resets, who may say
what when. DATA, WINDOW_UPDATE and PING, which are all there is while a call lasts, never pass it: that
makes a frame four times as cheap (docs/decisions/own-http2.md).
"""

from __future__ import annotations

import asyncio
import re
from typing import cast

import grpc
from h2.events import (
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from gateway.http2 import frames
from gateway.http2.call import Call
from gateway.http2.messages import BadStream, Messages, TooBig
from gateway.http2.metadata import ENCODINGS, text
from gateway.http2.replies import HEADERS_BYTES, Calls, Replies

_GRPC = re.compile(r"application/grpc($|[+;])")
_CONNECTION_WINDOW = 1024 * 1024
_UNSENT_BYTES = 64 * 1024
"""More than this in the socket's buffer: calls wait."""
_MOST_FRAME_BYTES = 64 * 1024
"""Larger frames than this are not sent even to a peer that would take them: they stand in the way of others."""
_YOUNG_S = 1.0
_MOST_RESETS = 200
_RESETS_A_S = 10.0
"""A peer may open calls and end them within a second 10 times a second, and 200 times at once."""


class Connection(Replies, asyncio.Protocol):
    """Belongs to the event loop's thread."""

    def __init__(self, calls: Calls) -> None:
        super().__init__(calls)
        self._pending = b""
        self._preface_left = len(frames.PREFACE)
        self._in_headers = False
        self._receive_window = _CONNECTION_WINDOW
        self._resets = self._reset_at = 0.0

    # ---- of the event loop ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.peer = (transport.get_extra_info("peername") or ("",))[0]
        self._transport.set_write_buffer_limits(high=_UNSENT_BYTES)
        self._rules.initiate_connection()
        more = _CONNECTION_WINDOW - frames.DEFAULT_WINDOW
        self._transport.write(self._rules.data_to_send() + frames.window_update(0, more))
        self._calls.joined(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._parting is not None:
            self._parting.over()
        for call in list(self._open.values()):
            call.lose("the connection was lost")
        self._open.clear()
        self._calls.left(self)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._parting is not None:
            self._parting.sent()
        else:
            self._flush_all()

    def data_received(self, data: bytes) -> None:
        if self._parting is not None:
            self._parting.unheard(len(data))
            return
        self.heard = True
        if self._pending:
            data = self._pending + data
            self._pending = b""
        self._reading = True
        try:
            self._read(data)
        except ProtocolError:
            self._fail()  # h2 has written down which
        except _Broken as broken:
            self._fail(broken.error)
        self._reading = False
        if self._refusing or self._leaving:
            self._close_if_done()

    # ---- frames in --------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        at, end = 0, len(data)
        if self._preface_left:
            at = min(self._preface_left, end)
            self._preface_left -= at
            self._rules.receive_data(data[:at])
            self.greeted = not self._preface_left
        while end - at >= frames.HEAD_BYTES and not self._over:
            head, flags, stream = frames.HEAD.unpack_from(data, at)
            size, kind = head >> 8, head & 0xFF
            if size > frames.LARGEST_FRAME:
                raise _Broken(frames.FRAME_SIZE_ERROR)
            stop = at + frames.HEAD_BYTES + size
            if stop > end:
                break
            if kind == frames.DATA and not self._in_headers:
                self._on_data(stream & 0x7FFFFFFF, flags, data, at, stop)
            elif kind == frames.WINDOW_UPDATE and size == 4 and not self._in_headers:
                self._on_window(stream & 0x7FFFFFFF, data, at, stop)
            elif kind == frames.PING and size == 8 and not stream & 0x7FFFFFFF and not self._in_headers:
                self._on_ping(flags, data[stop - 8 : stop])
            elif kind == frames.GOAWAY and size >= 8 and not stream & 0x7FFFFFFF and not self._in_headers:
                self._leaving = True  # calls that are open go on, which h2 would not let them
            else:
                if kind in (frames.HEADERS, frames.CONTINUATION):
                    self._in_headers = not flags & frames.END_HEADERS
                self._pass_on(data[at:stop])
            at = stop
        self._pending = data[at:] if at else data

    def _on_data(self, stream: int, flags: int, data: bytes, at: int, stop: int) -> None:
        call = self._open.get(stream)
        if call is None or call.input_ended:
            self._pass_on(data[at:stop])
            return
        begin = at + frames.HEAD_BYTES
        size = stop - begin
        self._receive_window -= size
        call.receive_window -= size
        if (
            self._receive_window < _CONNECTION_WINDOW // 2
        ):  # so it is never overrun; the calls' own are the bound
            self._write(frames.window_update(0, _CONNECTION_WINDOW - self._receive_window))
            self._receive_window = _CONNECTION_WINDOW
        if call.receive_window < 0:
            self._break_off(call, frames.FLOW_CONTROL_ERROR, "the client sent more than its window allows")
            return
        if flags & frames.PADDED:
            padding = data[begin] + 1 if size else size + 1
            if padding > size:
                raise _Broken(frames.PROTOCOL_ERROR)
            call.owe(padding)
            begin, stop = begin + 1, stop - padding + 1
        if stream in self._guarded:
            self._count(stream, data[begin:stop])
        self._feed(call, data[begin:stop])
        if flags & frames.END_STREAM:
            self._pass_on(frames.frame(frames.DATA, frames.END_STREAM, stream))

    def _count(self, stream: int, data: bytes) -> None:
        """Shows h2 the bytes of a call whose length was promised. The credit it would give is ours to give."""
        self._rules.receive_data(frames.frame(frames.DATA, 0, stream, data))
        if data:
            self._rules.acknowledge_received_data(len(data), stream)
        self._rules.data_to_send()

    def _feed(self, call: Call, data: bytes) -> None:
        if call.plain_status:
            self.give_credit(call, len(data))
            return
        try:
            call.receive(data)
        except BadStream as error:
            self.refuse(call, grpc.StatusCode.INTERNAL, str(error))
        except TooBig as error:
            self.refuse(call, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    def _on_window(self, stream: int, data: bytes, at: int, stop: int) -> None:
        more = int.from_bytes(data[stop - 4 : stop], "big") & 0x7FFFFFFF
        if stream == 0:
            self._send_window += more
            if not more:
                raise _Broken(frames.PROTOCOL_ERROR)
            if self._send_window > frames.LARGEST_WINDOW:
                raise _Broken(frames.FLOW_CONTROL_ERROR)
            self._flush_all()
        elif (call := self._open.get(stream)) is None:
            if not more or stream > self._last_stream:
                self._pass_on(data[at:stop])
        else:
            call.send_window += more
            if not more:
                self._break_off(call, frames.PROTOCOL_ERROR, "the client opened its window by nothing")
            elif call.send_window > frames.LARGEST_WINDOW:
                self._break_off(call, frames.FLOW_CONTROL_ERROR, "the client opened its window too far")
            else:
                self._flush(call)

    def _on_ping(self, flags: int, payload: bytes) -> None:
        if not flags & frames.ACK:
            self._write(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _pass_on(self, raw: bytes) -> None:
        """What h2 shall judge, and what follows from that. Raises ProtocolError, _Broken."""
        first_window = self._first_window
        for event in self._rules.receive_data(raw):
            self._on_event(event)
        self._write(self._rules.data_to_send())
        if first_window != self._first_window:
            self._flush_all()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._on_request(event)
        elif isinstance(event, StreamEnded):
            if (call := self._open.get(event.stream_id)) is not None:
                try:
                    call.end_input()
                    if call.plain_status:
                        self._reply_plainly(call)
                except BadStream as error:
                    self.refuse(call, grpc.StatusCode.INTERNAL, str(error))
        elif isinstance(event, StreamReset):
            if (call := self._open.get(event.stream_id)) is not None:
                call.lose("the client cancelled the stream")
                self._forget(call)
                self._count_reset(call)
        elif isinstance(event, RemoteSettingsChanged):
            self._on_settings(event)

    def _break_off(self, call: Call, error: int, why: str) -> None:
        """What the peer did is the end of one call of it."""
        self._reset(call, error, why)
        self._count_reset(call)

    def _count_reset(self, call: Call) -> None:
        """Calls opened only to be ended cost the peer nothing and us much."""
        now = asyncio.get_running_loop().time()
        if now - call.began > _YOUNG_S:
            return
        self._resets = max(0.0, self._resets - (now - self._reset_at) * _RESETS_A_S) + 1
        self._reset_at = now
        if self._resets > _MOST_RESETS:
            raise _Broken(frames.ENHANCE_YOUR_CALM)

    def _on_settings(self, event: RemoteSettingsChanged) -> None:
        window = event.changed_settings.get(SettingCodes.INITIAL_WINDOW_SIZE)
        if window is not None:
            grown, self._first_window = window.new_value - self._first_window, window.new_value
            for call in self._open.values():
                call.send_window += grown
                if call.send_window > frames.LARGEST_WINDOW:
                    raise _Broken(frames.FLOW_CONTROL_ERROR)
        if (size := event.changed_settings.get(SettingCodes.MAX_FRAME_SIZE)) is not None:
            self._frame_bytes = min(size.new_value, _MOST_FRAME_BYTES)

    def _on_request(self, event: RequestReceived) -> None:
        assert event.stream_id is not None
        stream = self._last_stream = event.stream_id
        headers = [(text(name), text(value)) for name, value in event.headers or ()]
        known = dict(headers)
        if "content-length" in known:
            self._guarded.add(stream)
        if self._refusing or self._leaving:
            self._rules.reset_stream(stream, frames.REFUSED_STREAM)
            return
        metadata = tuple((name, value) for name, value in headers if not name.startswith(":"))
        encoding = known.get("grpc-encoding", "identity")
        messages = Messages(self._calls.max_message_bytes, compressed=encoding in ENCODINGS[1:])
        call = Call(self, stream, known.get(":path", ""), metadata, messages)
        call.send_window = self._first_window
        self._open[stream] = call
        if known.get(":method") != "POST":
            call.plain_status = "405"
        elif not _GRPC.match(known.get("content-type", "")):
            call.plain_status = "415"
        elif (size := sum(len(name) + len(value) + 32 for name, value in headers)) > HEADERS_BYTES:
            said = f"the call's metadata has {size} bytes, {HEADERS_BYTES} are allowed: send less"
            self.refuse(call, grpc.StatusCode.RESOURCE_EXHAUSTED, said)
        elif encoding not in ENCODINGS:
            self.refuse(call, grpc.StatusCode.UNIMPLEMENTED, f"grpc-encoding {encoding} is not known here")
        else:
            self._calls.begin(call)


class _Broken(Exception):
    """The peer broke a rule that we keep ourselves."""

    def __init__(self, error: int) -> None:
        super().__init__(error)
        self.error = error
