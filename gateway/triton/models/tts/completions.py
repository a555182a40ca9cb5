"""Text as an LLM makes it: /v1/completions of any OpenAI-compatible server, as a stream of events.

One event loop in a thread of its own holds all connections; whoever reads is a thread of the engine, so every
wait is a read with a deadline that can look, in between, whether anybody still wants to hear.
"""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from gateway.triton.models.process import LoopThread

CONNECT_S = 5.0
MAX_CONNECTIONS = 256
MAX_LINE = 1 << 20
"""Bytes of an event."""
MAX_TOLD = 300
"""Characters of a server's own words in an error."""
END_S = 2.0


class LlmFailed(Exception):
    """`str()` is one sentence for whoever waits for the speech."""


class Completions:
    """A server that completes prompts."""

    def __init__(self, url: str, key: str = "") -> None:
        """url: base, with /v1. Raises: ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f'parameter llm is "{url}"; it must be a base URL such as http://127.0.0.1:8000/v1'
            )
        self._url = f"{url.rstrip('/')}/completions"
        self.server = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
        """Where it is, without user names and keys."""
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "parley"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._thread = LoopThread("llm")
        self._session: aiohttp.ClientSession = self._thread.run(self._open(), CONNECT_S)

    def ask(self, body: Mapping[str, Any], limit: int) -> Answer:
        """Returns at once. body: of the request, without "stream"; limit: events it may have."""
        answer = Answer(self.server, limit, self._thread.loop)
        self._thread.post(answer.start, self._read(answer, {**body, "stream": True}))
        return answer

    def close(self) -> None:
        self._thread.run(self._session.close(), END_S)
        self._thread.stop()

    async def _open(self) -> aiohttp.ClientSession:
        local = urlsplit(self._url).hostname in ("localhost", "127.0.0.1", "::1")
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            read_bufsize=MAX_LINE,
            trust_env=not local,
        )

    async def _read(self, answer: Answer, body: Mapping[str, Any]) -> None:
        try:
            async with self._session.post(self._url, json=body) as response:
                if response.status != 200:
                    raise LlmFailed(f"{self.server} answered {response.status}: {await _told(response)}")
                await self._events(response, answer)
        except LlmFailed as error:
            answer.put(error)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            answer.put(LlmFailed(_reason(self.server, error)))

    async def _events(self, response: aiohttp.ClientResponse, answer: Answer) -> None:
        async for line in response.content:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                answer.put(None)
                return
            text, finished = _event(data, self.server)
            if text:
                answer.put(text)
            if finished:
                answer.put(None)
                return
        raise LlmFailed(f"{self.server} ended its answer in the middle")


class Answer:
    """One completion on its way. `take` and `close` in any one thread; the rest on the loop."""

    def __init__(self, server: str, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        self._server, self._limit, self._loop = server, limit, loop
        self._events: queue.SimpleQueue[str | LlmFailed | None] = queue.SimpleQueue()
        self._count = 0
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def take(self, timeout_s: float) -> list[str]:
        """What has come since, at least one piece; empty at the end.

        Raises: TimeoutError when nothing came in time; LlmFailed.
        """
        try:
            found = [self._one(self._events.get(timeout=timeout_s))]
        except queue.Empty:
            raise TimeoutError from None
        while found[-1] is not None:
            try:
                found.append(self._one(self._events.get_nowait()))
            except queue.Empty:
                break
            except LlmFailed as error:  # what came before it is said first
                self._events.put(error)
                break
        if found[-1] is None:
            self._events.put(None)
        return [text for text in found if text is not None]

    def close(self) -> None:
        """Ends the request, whatever its state: the server sees its client go."""
        self._loop.call_soon_threadsafe(self._stop)

    def start(self, reading: Any) -> None:
        if self._closed:
            reading.close()
        else:
            self._task = self._loop.create_task(reading)

    def put(self, event: str | LlmFailed | None) -> None:
        self._count += 1
        if self._count == self._limit + 1 and isinstance(event, str):
            event = LlmFailed(f"{self._server} says more than the {self._limit} tokens it was asked for")
        if self._count > self._limit + 1 and isinstance(event, str):
            return self._stop()
        self._events.put(event)
        return None

    def _stop(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()

    @staticmethod
    def _one(event: str | LlmFailed | None) -> str | None:
        if isinstance(event, LlmFailed):
            raise event
        return event


def _event(data: bytes, server: str) -> tuple[str, bool]:
    """(text, whether it was the last). Raises: LlmFailed."""
    try:
        event = json.loads(data)
        if "error" in event:
            raise LlmFailed(f"{server} failed: {_short(_message(event))}")
        choice = event["choices"][0] if event["choices"] else {}
        return str(choice.get("text") or ""), bool(choice.get("finish_reason"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LlmFailed(
            f"{server} sends what is no completion: {_short(data.decode(errors='replace'))}"
        ) from None


async def _told(response: aiohttp.ClientResponse) -> str:
    body = (await response.content.read(4096)).decode(errors="replace")
    try:
        return _short(_message(json.loads(body)))
    except (ValueError, AttributeError):
        return _short(body) or "nothing"


def _message(body: Mapping[str, Any]) -> str:
    error = body.get("error", body)
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _short(text: str) -> str:
    return " ".join(text.split())[:MAX_TOLD]


def _reason(server: str, error: Exception) -> str:
    if isinstance(error, (aiohttp.ClientConnectorError, TimeoutError)):
        return f"{server} cannot be reached ({_short(str(error)) or 'it did not answer in time'})"
    return f"the connection to {server} broke: {_short(str(error)) or type(error).__name__}"
