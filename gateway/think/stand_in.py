"""A stand-in for a language model: keywords behind the OpenAI chat API, so that the client's road is the real one.

    GET  /healthz
    GET  /v1/models
    POST /v1/chat/completions   (stream or not)
    GET  /stand-in/stats

It waits `first_token_ms`, then makes `tokens_per_s` tokens; the request headers
`x-stand-in-first-token-ms` and `x-stand-in-tokens-per-s` override the settings for one request.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.settings import StandInSettings
from gateway.think.stand_in_replies import reply_to
from gateway.think.stand_in_request import ChatRequest, Refused, read_request

MODEL = "stand-in"
"""The only model it serves."""
_TOKEN = re.compile(r"\s*(?:\w{1,6}|[^\w\s])|\s+")


@dataclass(slots=True)
class Stats:
    """Served at `/stand-in/stats`."""

    requests: int = 0
    """Completions begun."""
    streams_open: int = 0
    """Completions being made now, streamed or not."""
    tokens_made: int = 0
    """Tokens of all completions."""
    cancelled: int = 0
    """Completions whose client went away before the end."""


def build_app(settings: StandInSettings, *, now: Callable[[], datetime]) -> Starlette:
    """The ASGI app. now: the local time that it tells."""
    stats = Stats()

    async def show_stats(_: Request) -> Response:
        return JSONResponse(asdict(stats))

    return Starlette(
        middleware=[Middleware(_RequireKey, key=settings.api_key.get_secret_value())],
        routes=[
            Route("/healthz", _healthz),
            Route("/v1/models", _models),
            Route("/v1/chat/completions", _Completions(settings, now, stats), methods=["POST"]),
            Route("/stand-in/stats", show_stats),
        ],
        exception_handlers={404: _nothing_here, 405: _other_method},
    )


class _RequireKey:
    """401 in OpenAI's words, before a request is read; `/healthz` is open."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if self._key and scope["type"] == "http" and scope["path"] != "/healthz":
            scheme, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._key):
                said = "Incorrect API key provided" if given else "You didn't provide an API key"
                app = _error(
                    401, f"{said}: send the one of stand_in.api_key as Bearer.", code="invalid_api_key"
                )
        await app(scope, receive, send)


async def _healthz(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _models(_: Request) -> Response:
    model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "parley"}
    return JSONResponse({"object": "list", "data": [model]})


async def _nothing_here(_: Request, __: Exception) -> Response:
    return _error(404, "There is nothing here; the API is at /v1/chat/completions.")


async def _other_method(_: Request, __: Exception) -> Response:
    return _error(405, "This address takes another method.")


def _error(status: int, message: str, param: str | None = None, code: str | None = None) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse(
        {"error": {"message": message, "type": kind, "param": param, "code": code}}, status_code=status
    )


class _Completions:
    """The completions endpoint as an ASGI app: it watches for the client's going away while it makes tokens."""

    def __init__(self, settings: StandInSettings, now: Callable[[], datetime], stats: Stats) -> None:
        self._settings = settings
        self._now = now
        self._stats = stats

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            chat = await read_request(Request(scope, receive), self._settings, MODEL)
        except Refused as refused:
            await _error(refused.status, str(refused), refused.param, refused.code)(scope, receive, send)
            return
        stats = self._stats
        stats.requests += 1
        stats.streams_open += 1
        making = asyncio.create_task(self._make(chat, scope, receive, send))
        leaving = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait((making, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stats.streams_open -= 1
            stats.cancelled += not making.done()
            making.cancel()
            leaving.cancel()
            await asyncio.gather(making, leaving, return_exceptions=True)
        if not making.cancelled() and (error := making.exception()):
            raise error

    async def _make(self, chat: ChatRequest, scope: Scope, receive: Receive, send: Send) -> None:
        text = reply_to(chat.messages, self._now())
        tokens, finish = _cut(text, chat.stops, chat.max_tokens)
        envelope = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(self._now().timestamp()),
            "model": MODEL,
        }
        prompt_tokens = sum(len(_TOKEN.findall(content)) for _, content in chat.messages)
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(tokens),
            "total_tokens": prompt_tokens + len(tokens),
        }
        async with aclosing(self._paced(tokens, chat)) as paced:
            if chat.stream:
                await _stream(envelope, paced, finish, usage if chat.include_usage else None, send)
                return
            content = "".join([token async for token in paced])
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        body = {**envelope, "object": "chat.completion", "choices": [choice], "usage": usage}
        await JSONResponse(body)(scope, receive, send)

    async def _paced(self, tokens: Sequence[str], chat: ChatRequest) -> AsyncGenerator[str, None]:
        loop = asyncio.get_running_loop()
        first_at = loop.time() + chat.first_token_ms / 1000
        for number, token in enumerate(tokens):
            due = first_at + (number / chat.tokens_per_s if chat.tokens_per_s else 0.0)
            await asyncio.sleep(max(0.0, due - loop.time()))
            self._stats.tokens_made += 1
            yield token


def _cut(text: str, stops: Sequence[str], max_tokens: int | None) -> tuple[list[str], str]:
    """(tokens, finish reason) of a reply under the request's limits."""
    ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    tokens = _TOKEN.findall(text[: min(ends)] if ends else text)
    if max_tokens is not None and len(tokens) > max_tokens:
        return tokens[:max_tokens], "length"
    return tokens, "stop"


async def _stream(
    envelope: dict[str, Any],
    tokens: AsyncGenerator[str, None],
    finish: str,
    usage: dict[str, int] | None,
    send: Send,
) -> None:
    """Server-sent events, as the API has them: a role, the text, the finish, the usage if asked for, [DONE]."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def event(choices: list[dict[str, Any]], **more: object) -> None:
        chunk = {**envelope, "object": "chat.completion.chunk", "choices": choices, **more}
        await _send_data(send, json.dumps(chunk))

    def choice(delta: dict[str, str], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]

    await event(choice({"role": "assistant", "content": ""}))
    async for token in tokens:
        await event(choice({"content": token}))
    await event(choice({}, finish))
    if usage is not None:
        await event([], usage=usage)
    await _send_data(send, "[DONE]")
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_data(send: Send, data: str) -> None:
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
