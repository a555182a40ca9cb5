"""The language model behind any OpenAI-compatible chat endpoint.

Its own reader of the event stream on aiohttp: per token it costs an eighth of what the official
client costs, which the tests keep as a peer. Figures: docs/decisions/llm-client.md.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from gateway.settings import LlmSettings
from gateway.telemetry.context import trace_carrier
from gateway.think.chat_wire import EventReader, StreamedReply, error_message, request_body
from gateway.think.llm import LlmError, Message, ToolOffer, ToolRequest
from gateway.think.llm_errors import (
    RefusedRequest,
    describe,
    is_lost_connection,
    is_retryable,
    retry_after_s,
    shown_url,
)
from gateway.tls.client import HTTP1, client_security

CHECK_S = 2.0
"""Deadline of a readiness check."""
_BACKOFF_S = 0.1
"""Wait before the first retry; doubles, with jitter."""
_AFTER_FINISH_S = 0.1
"""How long the end of the HTTP stream is waited for after the reply's end, to use the connection again."""
_KEPT_S = 4.0
"""An idle connection is kept for this long: uvicorn, and so vLLM and NIM, close theirs after 5 s."""
_MAX_CONNECTIONS = 1_000
_MAX_REFUSAL = 64 * 1024
"""Bytes read of the body of a refusal."""
_PREFIX_WARM_S = 60.0
"""The same prompt prefix is not sent again within this time."""
_PREFIXES = 64
_NEVER = float("inf")


class OpenAiLlm:
    """A `LanguageModel`. Must be made on the event loop that uses it; shared by all sessions."""

    def __init__(self, settings: LlmSettings) -> None:
        self._settings = settings
        self._url = shown_url(settings.base_url)
        self._http = _http(settings)
        self._name = settings.tls.name or None
        self._free: deque[float] = deque(maxlen=_MAX_CONNECTIONS)
        """When connections were given back, oldest first."""
        self._prefixes: dict[bytes, float] = {}
        self._warming: set[asyncio.Task[None]] = set()

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolOffer] = ()
    ) -> AsyncGenerator[str | ToolRequest, None]:
        """See `LanguageModel.stream`."""
        loop = asyncio.get_running_loop()
        budget_s, token_s = self._settings.first_token_ms / 1000, self._settings.token_ms / 1000
        deadline = loop.time() + budget_s
        body = request_body(self._settings, messages, tools)
        failure: Exception | None = None
        for attempt in range(self._settings.retries + 1):
            if failure is not None and not await _wait_before(attempt, failure, deadline):
                break
            reply, events = StreamedReply(), EventReader()
            answer: _Answer | None = None
            try:
                answer = await self._ask(body, deadline)
                while not reply.over:
                    block = await answer.read(deadline)
                    for event in events.feed(block) if block else events.flush():
                        if text := reply.take(event):
                            yield text
                        if reply.over:
                            break
                    if not block:
                        break
                    if reply.moved:
                        reply.moved, deadline = False, loop.time() + token_s
                reply.check_whole()
                for request in reply.requests():
                    yield request
                if await answer.finish():
                    self._free.append(loop.time())
                return
            except TimeoutError as error:
                if reply.started:
                    raise LlmError(f"The LLM at {self._url} stalled: no token for {token_s:g} s.") from error
                text = f"The LLM at {self._url} did not answer within {budget_s:g} s."
                if failure is not None:
                    text += f" Before that: {self._describe(failure, False)}"
                raise LlmError(text) from error
            except Exception as error:
                if reply.started or not is_retryable(error):
                    raise LlmError(self._describe(error, reply.started)) from error
                failure = error
            finally:
                if answer is not None:
                    answer.close()
        assert failure is not None
        raise LlmError(self._describe(failure, False)) from failure

    async def check(self) -> None:
        """Lists the models. Raises LlmError when the endpoint cannot be reached or refuses the key."""
        try:
            async with asyncio.timeout(CHECK_S):
                await self._list_models()
        except TimeoutError as error:
            raise LlmError(f"The LLM at {self._url} did not answer within {CHECK_S:g} s.") from error
        except RefusedRequest as error:
            if error.status in (404, 405):
                return  # lists no models, but is there
            raise LlmError(self._describe(error, False)) from error
        except Exception as error:
            raise LlmError(self._describe(error, False)) from error

    def warm_up(self, messages: Sequence[Message] = (), tools: Sequence[ToolOffer] = ()) -> None:
        """See `LanguageModel.warm_up`."""
        now = asyncio.get_running_loop().time()
        if messages:
            body = request_body(self._settings, messages, tools, max_tokens=1)
            if now - self._prefixes.get(body, -_NEVER) >= _PREFIX_WARM_S:
                self._prefixes.pop(body, None)
                while len(self._prefixes) >= _PREFIXES:
                    del self._prefixes[next(iter(self._prefixes))]
                self._prefixes[body] = now
                self._warm(self._send_prefix(body))
        elif self._settings.warm_up and not self._warming and not self._has_free_connection(now):
            self._warm(self._list_models())

    async def close(self) -> None:
        """Closes the connections; running streams fail."""
        for task in list(self._warming):
            task.cancel()
        await asyncio.gather(*self._warming, return_exceptions=True)
        await self._http.close()

    # ---- requests --------------------------------------------------------------------------------

    async def _ask(self, body: bytes, deadline: float) -> _Answer:
        """Raises RefusedRequest, TimeoutError, and what aiohttp raises."""
        if self._free:
            self._free.pop()
        async with asyncio.timeout_at(deadline):
            response = await self._http.post(
                _path(self._settings, "chat/completions"),
                data=body,
                headers=trace_carrier() or None,
                server_hostname=self._name,
            )
            await _raise_for_status(response)
        return _Answer(response)

    async def _list_models(self) -> None:
        async with self._http.get(_path(self._settings, "models"), server_hostname=self._name) as response:
            await _raise_for_status(response)
            await response.read()
        self._free.append(asyncio.get_running_loop().time())

    async def _send_prefix(self, body: bytes) -> None:
        async with self._http.post(
            _path(self._settings, "chat/completions"), data=body, server_hostname=self._name
        ) as response:
            await _raise_for_status(response)
            while await response.content.readany():
                pass
        self._free.append(asyncio.get_running_loop().time())

    def _has_free_connection(self, now: float) -> bool:
        return bool(self._free) and now - self._free[-1] < _KEPT_S

    def _warm(self, request: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_quietly(request, self._settings.first_token_ms / 1000))
        self._warming.add(task)
        task.add_done_callback(self._warming.discard)

    def _describe(self, error: Exception, started: bool) -> str:
        secret = self._settings.api_key.get_secret_value()
        return describe(error, url=self._url, model=self._settings.model, secret=secret, started=started)


class _Answer:
    """A response being read. One timer watches all its reads: one per read would cost as much as the read."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._deadline = _NEVER
        self._late = False
        self._timer: asyncio.TimerHandle | None = None
        self._rings = _NEVER

    async def read(self, deadline: float) -> bytes:
        """What has come since; empty at the end. Raises TimeoutError past `deadline` (the loop's time)."""
        self._deadline = deadline
        if deadline < self._rings:
            self._set_timer(deadline)
        try:
            return await self._response.content.readany()
        except aiohttp.ClientError:
            if self._late:
                raise TimeoutError from None
            raise
        finally:
            self._deadline = _NEVER

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = at
        self._timer = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer, self._rings = None, _NEVER
        if self._deadline == _NEVER:
            return  # nobody waits; the next read sets it again
        if self._loop.time() < self._deadline:
            self._set_timer(self._deadline)
        else:
            self._late = True
            self._response.close()  # wakes the reader

    async def finish(self) -> bool:
        """Read to the end of the response; True when its connection can be used again."""
        try:
            while await self.read(self._loop.time() + _AFTER_FINISH_S):
                pass
        except Exception:
            return False  # the reply is whole; only the connection is lost
        return True

    def close(self) -> None:
        """At once; a response that was not read to its end takes its connection with it."""
        if self._timer is not None:
            self._timer.cancel()
        self._response.close()


async def _wait_before(attempt: int, failure: Exception, deadline: float) -> bool:
    """Backoff before another try; False when there is no time for one."""
    wait_s = max(retry_after_s(failure), _BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))
    if attempt == 1 and is_lost_connection(failure):
        wait_s = 0.0
    if asyncio.get_running_loop().time() + wait_s >= deadline:
        return False
    await asyncio.sleep(wait_s)
    return True


async def _raise_for_status(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    try:
        wait_s = max(0.0, float(response.headers.get("retry-after", 0)))
    except ValueError:
        wait_s = 0.0  # a date; our own backoff does
    try:
        body = await response.content.read(_MAX_REFUSAL)
    except aiohttp.ClientError:
        body = b""
    response.close()
    raise RefusedRequest(response.status, error_message(body), wait_s)


async def _quietly(request: Coroutine[Any, Any, None], limit_s: float) -> None:
    """What fails here fails again, and loudly, where it matters."""
    try:
        async with asyncio.timeout(limit_s):
            await request
    except Exception:
        pass


def _path(settings: LlmSettings, path: str) -> str:
    parts = urlsplit(settings.base_url)
    has_key = bool(settings.api_key.get_secret_value())
    host = parts.netloc.rpartition("@")[2] if has_key else parts.netloc
    return urlunsplit((parts.scheme, host, f"{parts.path.rstrip('/')}/{path}", parts.query, ""))


def _http(settings: LlmSettings) -> aiohttp.ClientSession:
    headers = {
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",  # a compressor on the way would hold tokens back
        "User-Agent": "parley",
    }
    if key := settings.api_key.get_secret_value():
        headers["Authorization"] = f"Bearer {key}"
    where = urlsplit(settings.base_url)
    security = client_security(settings.tls, "the LLM", on=where.scheme == "https")
    local = where.hostname in ("localhost", "127.0.0.1", "::1")
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=_MAX_CONNECTIONS,
            keepalive_timeout=_KEPT_S,
            ssl=True if security is None else security.context(HTTP1),
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        trust_env=not local,
    )
