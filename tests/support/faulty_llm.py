"""An OpenAI-compatible server that fails on demand, byte by byte where a proper server could not.

async with FaultyLlm("500", "ok") as llm:   # first request 500, every later one ok
    ... llm.base_url ...
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

_HEAD = "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nconnection: close\r\n"
STATUS = {"400": 400, "401": 401, "404": 404, "429": 429, "500": 500, "503": 503}
MODES = (
    "ok",  # the words, then the finish
    "hang",  # takes the request, never answers
    "hang_after_headers",
    "stall",  # two words, then silence
    "trickle",  # two words, then for ever chunks without text
    "die",  # two words, then a reset
    "die_at_once",  # a reset instead of an answer
    "cut",  # two words, then a clean end without a finish
    "empty",  # a clean end without a word
    "finish_only",  # a finish without a word
    "garbage",  # no JSON in the stream
    "garbage_late",  # two words, then no JSON
    "garbage_shape",  # JSON of another shape
    "garbage_bytes",  # no UTF-8
    "html",  # a login page
    "error_event",  # two words, then an error in the stream
    "tools",  # two tool calls in pieces
    *STATUS,
)


class FaultyLlm:
    """Takes the next of `modes` for each completion; the last one stays. `mode` may be set at any time.

    words: the reply, token by token; none: the last line of what the user said, said again.
    """

    def __init__(
        self, *modes: str, words: tuple[str, ...] = ("One", " two", " three."), retry_after: str = ""
    ) -> None:
        self._modes = list(modes) or ["ok"]
        self._words = words
        self._retry_after = retry_after
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests: list[dict[str, Any]] = []
        """Bodies of the completions asked for."""
        self.headers: list[dict[str, str]] = []
        """Header lines of the same, names in lower case."""
        self.asked = asyncio.Event()
        """Set by every completion asked for."""
        self.hung_up = asyncio.Event()
        """Set when a client went away before its answer was whole."""
        self.base_url = ""

    @property
    def mode(self) -> str:
        return self._modes[0]

    @mode.setter
    def mode(self, mode: str) -> None:
        self._modes = [mode]

    async def start(self) -> str:
        """Returns the base URL."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.base_url = f"http://127.0.0.1:{port}/v1"
        return self.base_url

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def __aenter__(self) -> FaultyLlm:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        mode = self._modes[0]
        words = self._words
        if first.startswith("POST"):
            mode = self._modes.pop(0) if len(self._modes) > 1 else self._modes[0]
            self.requests.append(json.loads(body))
            words = words or _tokens(self.requests[-1]["messages"][-1]["content"])
            self.headers.append(headers)
            self.asked.set()
        elif mode not in ("hang", "die_at_once", *STATUS):
            self._whole(writer, 200, "application/json", '{"object": "list", "data": []}')
            return
        if mode in STATUS:
            error = {"message": f"mode {mode}", "type": "x", "param": None, "code": None}
            self._whole(writer, STATUS[mode], "application/json", json.dumps({"error": error}))
        elif mode == "html":
            self._whole(writer, 200, "text/html", "<html>Log in</html>")
        elif mode == "die_at_once":
            writer.transport.abort()
        elif mode == "hang":
            await self._wait_for_hang_up(reader)
        else:
            await self._stream(mode, words, reader, writer)

    def _whole(self, writer: asyncio.StreamWriter, status: int, kind: str, body: str) -> None:
        extra = f"retry-after: {self._retry_after}\r\n" if self._retry_after else ""
        head = _HEAD.format(status=status, kind=kind) + extra + f"content-length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())

    async def _stream(
        self, mode: str, words: tuple[str, ...], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = _HEAD.format(status=200, kind="text/event-stream") + "transfer-encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        if mode == "hang_after_headers":
            await self._wait_for_hang_up(reader)
            return
        delta: dict[str, object]
        words = words if mode == "ok" else words[:2]
        if mode in ("ok", "stall", "trickle", "die", "cut", "garbage_late", "error_event"):
            _event(writer, _chunk({"role": "assistant", "content": ""}))
            for word in words:
                _event(writer, _chunk({"content": word}))
                await writer.drain()
        if mode == "stall":
            await self._wait_for_hang_up(reader)
            return
        if mode == "trickle":
            hang_up = asyncio.create_task(self._wait_for_hang_up(reader))
            while not (await asyncio.wait([hang_up], timeout=0.01))[0]:
                _event(writer, _chunk({}))
            return
        if mode == "die":
            await asyncio.sleep(0.01)  # lets the words out before the reset overtakes them
            writer.transport.abort()
            return
        if mode in ("garbage", "garbage_late"):
            _event(writer, "{this is no JSON")
        elif mode == "garbage_shape":
            _event(writer, json.dumps({"choices": [{"delta": {"content": {"a": 1}}}]}))
        elif mode == "garbage_bytes":
            _raw(writer, b"data: \xff\xfe\x00\n\n")
        elif mode == "error_event":
            _event(writer, json.dumps({"error": {"message": "out of memory", "code": 500}}))
        elif mode == "tools":
            for part in (
                {"index": 0, "id": "call_a", "function": {"name": "weather", "arguments": ""}},
                {"index": 0, "function": {"arguments": '{"city":'}},
                {"index": 1, "id": "call_b", "function": {"name": "clock", "arguments": "{}"}},
                {"index": 0, "function": {"arguments": ' "Oslo"}'}},
            ):
                delta = {"tool_calls": [part]}
                _event(writer, _chunk(delta))
            _event(writer, _chunk({}, "tool_calls"))
        if mode in ("ok", "finish_only"):
            _event(writer, _chunk({}, "stop"))
        if mode != "cut":
            _event(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")

    async def _wait_for_hang_up(self, reader: asyncio.StreamReader) -> None:
        try:
            await reader.read(1)
        except ConnectionError:
            pass
        self.hung_up.set()


def _tokens(text: str) -> tuple[str, ...]:
    words = text.splitlines()[-1].split() if text.strip() else []
    return tuple(word if number == 0 else f" {word}" for number, word in enumerate(words))


def _chunk(delta: dict[str, Any], finish: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return json.dumps(
        {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
    )


def _event(writer: asyncio.StreamWriter, data: str) -> None:
    _raw(writer, f"data: {data}\n\n".encode())


def _raw(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
