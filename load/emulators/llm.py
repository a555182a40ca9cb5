"""A stand-in for an OpenAI-compatible chat endpoint: server-sent events on a timetable."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from load.emulators.distributions import Draws
from load.emulators.faults import Died, Fault, Faults, Strike
from load.emulators.pace import TICK_S, Pace
from load.emulators.profile import LlmProfile
from load.emulators.stats import LlmStats
from load.emulators.tokens import first_sentence, tokens_of

_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
_DONE = b"data: [DONE]\n\n"
_GARBAGE = b"data: {this is no JSON\n\n"
_CHARS_PER_TOKEN = 4
_LIMITS = ("max_completion_tokens", "max_tokens")
_NO_LIMIT = 1 << 20


class Refused(Exception):
    """The request's own fault, in the API's terms."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Ask:
    """What matters of a request."""

    model: str
    stream: bool
    include_usage: bool
    max_tokens: int
    stops: tuple[str, ...]
    prompt_tokens: int


class Chat:
    """The service. `profile` may be replaced at any time; it holds for requests that come then."""

    def __init__(
        self, profile: LlmProfile, draws: Draws, faults: Faults, stats: LlmStats, pace: Pace
    ) -> None:
        self.profile = profile
        self._draws = draws
        self._faults = faults
        self._stats = stats
        self._pace = pace
        self._answered = 0

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/models", self._models),
            web.post("/v1/chat/completions", self._complete),
        ]

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": self.profile.model, "object": "model", "created": 0, "owned_by": "parley"}
        return web.json_response({"object": "list", "data": [model]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        came = self._pace.now()
        try:
            ask = _ask(await request.read())
        except Refused as refused:
            return _error(400, str(refused), refused.param)
        stats = self._stats
        stats.requests += 1
        stats.open += 1
        fault = self._faults.take("llm")
        over = False
        try:
            answer = await self._answer(request, ask, fault, came)
            over = True
            return answer
        except Died:
            over = True
            if request.transport is not None:
                request.transport.abort()
            raise asyncio.CancelledError from None  # nothing more is written to what is gone
        finally:
            stats.open -= 1
            stats.cancelled += not over

    async def _answer(
        self, request: web.Request, ask: Ask, fault: Fault | None, came: float
    ) -> web.StreamResponse:
        if fault is not None and fault.refuses:
            return _error(503, "The emulated model refuses this request.", kind="server_error")
        tokens, finish = self._reply(ask)
        due = timetable(tokens, came, self.profile, self._draws)
        usage = {
            "prompt_tokens": ask.prompt_tokens,
            "completion_tokens": len(tokens),
            "total_tokens": ask.prompt_tokens + len(tokens),
        }
        envelope = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": ask.model,
        }
        if not ask.stream:
            return await self._whole(tokens, finish, due, usage, envelope, fault)
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(request)
        last = _event(envelope, [_choice({}, finish)])
        if ask.include_usage:
            last += _event(envelope, [], usage=usage)
        await self._stream(response, tokens, due, envelope, Strike(fault))
        await response.write(last + _DONE)
        return response

    def _reply(self, ask: Ask) -> tuple[Sequence[str], str]:
        """(tokens, finish reason)."""
        replies = self.profile.replies
        self._answered += 1
        text = replies[(self._answered - 1) % len(replies)]
        ends = [at for stop in ask.stops if stop and (at := text.find(stop)) >= 0]
        tokens = tokens_of(text[: min(ends)] if ends else text)
        if len(tokens) > ask.max_tokens:
            return tokens[: ask.max_tokens], "length"
        return tokens, "stop"

    async def _stream(
        self, response: web.StreamResponse, tokens: Sequence[str], due: Sequence[float],
        envelope: dict[str, Any], strike: Strike,
    ) -> None:  # fmt: skip
        pace = self._pace
        head, tail = _around(envelope)
        pending = _event(envelope, [_choice({"role": "assistant", "content": ""})])
        single = ((at, number, number + 1) for number, at in enumerate(due))
        writes = single if strike.is_set else _writes(due, first_sentence(tokens))
        for at, first, last in writes:
            await pace.until(at)
            for token in tokens[first:last]:
                pending += head + json.dumps(token).encode() + tail
            if strike.is_set and await strike.before():
                pending = _GARBAGE
            self._stats.tokens += last - first
            await response.write(pending)
            pending = b""

    async def _whole(
        self, tokens: Sequence[str], finish: str, due: Sequence[float], usage: dict[str, int],
        envelope: dict[str, Any], fault: Fault | None,
    ) -> web.Response:  # fmt: skip
        await self._pace.until(due[-1] if due else 0.0)
        if await Strike(fault and Fault(fault.kind, 0, fault.drip_ms)).before():
            return web.Response(body=b"{this is no JSON", content_type="application/json")
        self._stats.tokens += len(tokens)
        message = {"role": "assistant", "content": "".join(tokens)}
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        return web.json_response(
            {**envelope, "object": "chat.completion", "choices": [choice], "usage": usage}
        )


def _ask(raw: bytes) -> Ask:
    """Raises: Refused."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise Refused("The request body is not JSON.") from None
    if not isinstance(body, dict):
        raise Refused("The request body must be a JSON object.")
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str) or not model:
        raise Refused("You must provide a model parameter.", "model")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise Refused("'messages' must be a list with at least one message.", "messages")
    limits = [body[name] for name in _LIMITS if body.get(name) is not None]
    if any(not isinstance(limit, int) or isinstance(limit, bool) or limit < 1 for limit in limits):
        raise Refused("'max_tokens' must be a positive integer.", "max_tokens")
    stops = body.get("stop") or ()
    stops = [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, (list, tuple)) or not all(isinstance(stop, str) for stop in stops):
        raise Refused("'stop' must be a text or a list of texts.", "stop")
    options = body.get("stream_options")
    letters = sum(len(content) for m in messages if isinstance(content := m.get("content"), str))
    return Ask(
        model=model,
        stream=body.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_tokens=limits[0] if limits else _NO_LIMIT,
        stops=tuple(stops),
        prompt_tokens=letters // _CHARS_PER_TOKEN + 1,
    )


def timetable(tokens: Sequence[str], came: float, profile: LlmProfile, draws: Draws) -> list[float]:
    """When each token of a request that came at `came` (loop time) is due."""
    first = draws.ms("llm.first_token_ms", profile.first_token_ms) / 1000
    sentence = draws.ms("llm.first_sentence_ms", profile.first_sentence_ms) / 1000
    step = 1 / profile.tokens_per_s if profile.tokens_per_s else 0.0
    length = first_sentence(tokens)
    within = (sentence - first) / (length - 1) if sentence > first and length > 1 else step
    due, at = [], came + first
    for number in range(len(tokens)):
        due.append(at)
        at += within if number < length - 1 else step
    return due


def _writes(due: Sequence[float], sentence: int) -> Iterator[tuple[float, int, int]]:
    """(time, first, behind the last token) of each write. The first token and the last one of the first
    sentence (of `sentence` tokens) go out on time, all others with the tick behind their time."""
    ticks = [math.ceil(at / TICK_S) * TICK_S for at in due]
    if due:
        ticks[0] = due[0]
        ticks[:sentence] = [min(at, due[sentence - 1]) for at in ticks[:sentence]]
    first = 0
    for at, group in itertools.groupby(ticks):
        last = first + len(list(group))
        yield at, first, last
        first = last


def _choice(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}


def _event(envelope: dict[str, Any], choices: list[dict[str, Any]], **more: object) -> bytes:
    chunk = {**envelope, "object": "chat.completion.chunk", "choices": choices, **more}
    return f"data: {json.dumps(chunk)}\n\n".encode()


def _around(envelope: dict[str, Any]) -> tuple[bytes, bytes]:
    """An event's bytes before and behind the token."""
    mark = "\x00"
    head, tail = _event(envelope, [_choice({"content": mark})]).split(json.dumps(mark).encode())
    return head, tail


def _error(
    status: int, message: str, param: str | None = None, kind: str = "invalid_request_error"
) -> web.Response:
    error = {"message": message, "type": kind, "param": param, "code": None}
    return web.json_response({"error": error}, status=status)
