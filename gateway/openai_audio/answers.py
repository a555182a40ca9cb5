"""Answers that are sent as they are made, to clients that may be slow, or gone."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.types import Receive, Send

from gateway.openai_audio.errors import ApiError

log = logging.getLogger(__name__)
T = TypeVar("T")


class Gone(Exception):
    """The client has hung up: nobody waits for an answer."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; it is cancelled when the client hangs up. The request's body was read. Raises Gone."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait((working, leaving))


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_stream(
    send: Send, media_type: str, body: AsyncGenerator[bytes, None], *, stall_s: float
) -> None:
    """Status 200 with the first piece of `body`, chunked; what it raises before that is raised.

    A failure later cuts the answer short, so that the client does not take it for whole.
    """
    async with aclosing(body):
        piece = await anext(body, b"")
        headers = [(b"content-type", media_type.encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            await _send(send, piece, stall_s)
            async for piece in body:
                await _send(send, piece, stall_s)
        except ApiError as error:
            log.warning("an answer was cut short: %s", error)
            return
        except TimeoutError:
            log.info("a client took nothing for %g s: its answer was cut short", stall_s)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send(send: Send, piece: bytes, stall_s: float) -> None:
    if piece:
        async with asyncio.timeout(stall_s):
            await send({"type": "http.response.body", "body": piece, "more_body": True})


async def ahead(source: AsyncGenerator[bytes, None], most_bytes: int) -> AsyncGenerator[bytes, None]:
    """The same pieces, made while the reader is busy with earlier ones; no further ahead than so many bytes."""
    ready: deque[bytes] = deque()
    held = 0
    more, room = asyncio.Event(), asyncio.Event()

    async def fill() -> None:
        nonlocal held
        async with aclosing(source):
            async for piece in source:
                ready.append(piece)
                held += len(piece)
                more.set()
                while held > most_bytes:
                    room.clear()
                    await room.wait()

    filling = asyncio.create_task(fill())
    filling.add_done_callback(lambda _: more.set())
    try:
        while True:
            while ready:
                piece = ready.popleft()
                held -= len(piece)
                room.set()
                yield piece
            if filling.done():
                filling.result()
                return
            more.clear()
            await more.wait()
    finally:
        filling.cancel()
        await asyncio.wait((filling,))


async def events(
    source: AsyncGenerator[dict[str, Any], None], explain: Callable[[Exception], ApiError | None]
) -> AsyncGenerator[bytes, None]:
    """Server-sent events. A failure after the first is the last event, an `error` that OpenAI's client raises."""
    begun = False
    async with aclosing(source):
        try:
            async for event in source:
                begun = True
                yield _event(event)
        except Exception as error:
            known = explain(error)
            if not begun or known is None:
                raise
            yield _event({"type": "error", **known.body})


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
