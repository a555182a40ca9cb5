"""The language model behind any OpenAI-compatible chat endpoint, through the official client."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import openai
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolUnionParam

from gateway.settings import LlmSettings
from gateway.think.llm import LlmError, Message, ToolOffer, ToolRequest
from gateway.think.llm_errors import EndedEarly, describe, is_retryable, retry_after_s, shown_url

CHECK_S = 2.0
"""Deadline of a readiness check."""
_BACKOFF_S = 0.1
"""Wait before the first retry; doubles, with jitter."""
_AFTER_FINISH_S = 0.1
"""How long the end of the HTTP stream is waited for after the reply's end, to use the connection again."""
_CLOSE_S = 1.0
_MAX_ARGUMENTS = 64 * 1024
"""Characters of tool arguments taken before a reply counts as garbage."""


class OpenAiLlm:
    """A `LanguageModel`. Must be made on the event loop that uses it; shared by all sessions."""

    def __init__(self, settings: LlmSettings) -> None:
        self._settings = settings
        self._url = shown_url(settings.base_url)
        self._client = _client(settings)
        has_key = bool(settings.api_key.get_secret_value())
        self._headers: dict[str, str | openai.Omit] = {} if has_key else {"Authorization": openai.Omit()}

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolOffer] = ()
    ) -> AsyncGenerator[str | ToolRequest, None]:
        """See `LanguageModel.stream`."""
        loop = asyncio.get_running_loop()
        budget_s = self._settings.first_token_ms / 1000
        deadline = loop.time() + budget_s
        failure: Exception | None = None
        for attempt in range(self._settings.retries + 1):
            if failure is not None:
                wait_s = max(
                    retry_after_s(failure), _BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
                )
                if loop.time() + wait_s >= deadline:
                    break
                await asyncio.sleep(wait_s)
            reply = _Reply()
            parts = self._attempt(messages, tools, reply, deadline)
            try:
                async for part in parts:
                    yield part
                return
            except TimeoutError as error:
                if reply.started:
                    raise LlmError(
                        f"The LLM at {self._url} stalled: no token for {self._settings.token_ms / 1000:g} s."
                    ) from error
                text = f"The LLM at {self._url} did not answer within {budget_s:g} s."
                if failure is not None:
                    text += f" Before that: {self._describe(failure, False)}"
                raise LlmError(text) from error
            except Exception as error:
                if reply.started or not is_retryable(error):
                    raise LlmError(self._describe(error, reply.started)) from error
                failure = error
            finally:
                await parts.aclose()
        assert failure is not None
        raise LlmError(self._describe(failure, False)) from failure

    async def check(self) -> None:
        """Lists the models. Raises LlmError when the endpoint cannot be reached or refuses the key."""
        try:
            async with asyncio.timeout(CHECK_S):
                await self._client.get("/models", cast_to=object, options={"headers": self._headers})
        except TimeoutError as error:
            raise LlmError(f"The LLM at {self._url} did not answer within {CHECK_S:g} s.") from error
        except openai.APIStatusError as error:
            if error.status_code in (404, 405):
                return  # lists no models, but is there
            raise LlmError(self._describe(error, False)) from error
        except Exception as error:
            raise LlmError(self._describe(error, False)) from error

    async def close(self) -> None:
        """Closes the connections; running streams fail."""
        await self._client.close()

    def _describe(self, error: Exception, started: bool) -> str:
        secret = self._settings.api_key.get_secret_value()
        return describe(error, url=self._url, model=self._settings.model, secret=secret, started=started)

    async def _attempt(
        self, messages: Sequence[Message], tools: Sequence[ToolOffer], reply: _Reply, deadline: float
    ) -> AsyncGenerator[str | ToolRequest, None]:
        """One request. Raises TimeoutError past `deadline` or `token_ms`, else whatever went wrong."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        async with asyncio.timeout_at(deadline):
            response = await self._client.chat.completions.create(
                model=settings.model,
                messages=cast("list[ChatCompletionMessageParam]", [_wire(m) for m in messages]),
                temperature=settings.temperature,
                max_tokens=settings.max_tokens,
                stream=True,
                tools=cast("list[ChatCompletionToolUnionParam]", [_wire_tool(t) for t in tools])
                or openai.omit,
                extra_headers=self._headers,
            )
        try:
            while not reply.finish:
                async with asyncio.timeout_at(deadline):
                    chunk = await anext(response, None)
                if chunk is None:
                    break
                text = reply.take(chunk)
                if text:
                    yield text
                if reply.moved:
                    deadline = loop.time() + settings.token_ms / 1000
            reply.check_whole()
            for request in reply.requests():
                yield request
            try:
                async with asyncio.timeout(_AFTER_FINISH_S):
                    while await anext(response, None) is not None:
                        pass
            except Exception:
                pass  # the reply is whole; only the connection is lost
        finally:
            await _close_quietly(response)


async def _close_quietly(response: Any) -> None:
    try:
        async with asyncio.timeout(_CLOSE_S):
            await response.close()
    except Exception:
        pass


@dataclass(slots=True)
class _Reply:
    """What has come of one reply."""

    started: bool = False
    """True once text or a part of a tool call came: no other try."""
    moved: bool = False
    """True when the newest chunk brought some of it."""
    finish: str = ""
    """The model's finish reason; empty: not finished."""
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    """Tool calls in the making, by index."""

    def take(self, chunk: Any) -> str:
        """Returns the text in a chunk. Raises ValueError and others when it is not what the API promises."""
        self.moved = False
        choices = chunk.choices
        if not choices:
            if choices is None:
                raise ValueError("a chunk without choices")
            return ""  # the usage at the end
        choice = choices[0]
        delta = choice.delta
        text = (delta.content or delta.refusal or "") if delta is not None else ""
        if not isinstance(text, str):
            raise TypeError("content that is no text")
        calls = (delta.tool_calls or ()) if delta is not None else ()
        for call in calls:
            self._take_call(call)
        self.moved = bool(text or calls)
        self.started = self.started or self.moved
        self.finish = choice.finish_reason or ""
        return text

    def _take_call(self, part: Any) -> None:
        call = self.calls.setdefault(part.index or 0, {"id": "", "name": "", "arguments": ""})
        call["id"] = call["id"] or part.id or ""
        if part.function is not None:
            call["name"] += part.function.name or ""
            call["arguments"] += part.function.arguments or ""
        if len(call["arguments"]) > _MAX_ARGUMENTS:
            raise ValueError("endless tool arguments")

    def check_whole(self) -> None:
        """Raises EndedEarly when the stream ended before the reply did, or without a word."""
        if not self.finish:
            raise EndedEarly(
                "broke off in the middle of a reply" if self.started else "ended without a token"
            )
        if not self.started:
            raise EndedEarly(f"ended without a token (finish reason: {self.finish:.40})")

    def requests(self) -> list[ToolRequest]:
        return [
            ToolRequest(call["id"] or f"call_{secrets.token_hex(8)}", call["name"], call["arguments"])
            for _, call in sorted(self.calls.items())
        ]


def _wire(message: Message) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_call_id:
        wire["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        wire["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    return wire


def _wire_tool(tool: ToolOffer) -> dict[str, Any]:
    schema = json.loads(tool.parameters) if tool.parameters else {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": schema}
    return {"type": "function", "function": function}


def _client(settings: LlmSettings) -> AsyncOpenAI:
    key = settings.api_key.get_secret_value()
    local = urlsplit(settings.base_url).hostname in ("localhost", "127.0.0.1", "::1")
    return AsyncOpenAI(
        base_url=settings.base_url,
        api_key=key or "none",  # an empty one would make the client look for another's in the environment
        organization="",
        project="",
        max_retries=0,
        timeout=None,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False) if local else None,
    )
