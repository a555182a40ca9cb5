"""The OpenAI chat API on the wire: the request as bytes, the stream of server-sent events as a reply."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.settings import LlmSettings
from gateway.think.llm import Message, ToolOffer, ToolRequest
from gateway.think.llm_errors import EndedEarly, FailedInStream

_MAX_EVENT = 256 * 1024
"""Bytes of one event before a stream counts as garbage."""
_MAX_ARGUMENTS = 64 * 1024
"""Characters of tool arguments taken before a reply counts as garbage."""
_DONE = "[DONE]"


def request_body(
    settings: LlmSettings, messages: Sequence[Message], tools: Sequence[ToolOffer], *, max_tokens: int = 0
) -> bytes:
    """JSON. What stays the same from turn to turn makes the same bytes and comes first: servers keep prefixes.

    max_tokens: 0 takes the setting.
    """
    body: dict[str, Any] = {"model": settings.model}
    if tools:
        body["tools"] = [_wire_tool(tool) for tool in tools]
    body |= {
        "temperature": settings.temperature,
        "max_tokens": max_tokens or settings.max_tokens,
        "stream": True,
        "messages": [_wire(message) for message in messages],
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


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


class EventReader:
    """Cuts what arrives into the data of whole events. One per stream; how it was cut on the way changes nothing."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, block: bytes) -> list[str]:
        """The data of every event that this block completed; comments and other fields are left out.

        Raises ValueError when it is no UTF-8, or an event does not end.
        """
        held = self._rest + block if self._rest else block
        if b"\r" in held:  # JSON itself holds none
            held = held.replace(b"\r\n", b"\n")
        *events, self._rest = held.split(b"\n\n")
        if len(self._rest) > _MAX_EVENT:
            raise ValueError("an event without an end")
        return [data for event in events if (data := _data(event))]

    def flush(self) -> list[str]:
        """The stream is over: what a server sent last without closing the event."""
        rest, self._rest = self._rest, b""
        return [data] if (data := _data(rest)) else []


def _data(event: bytes) -> str:
    text = event.decode()
    if text.startswith("data:") and "\n" not in text:
        return text[5:].strip()
    lines = [line[5:].removeprefix(" ") for line in text.split("\n") if line.startswith("data:")]
    return "\n".join(lines).strip()


@dataclass(slots=True)
class StreamedReply:
    """What has come of one reply."""

    started: bool = False
    """True once text or a part of a tool call came: no other try."""
    moved: bool = False
    """True when something of it came since this was last set to False."""
    over: bool = False
    """The model's finish reason came, or the stream's own end."""
    finish: str = ""
    """The model's finish reason; empty: not finished."""
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    """Tool calls in the making, by index."""

    def take(self, data: str) -> str:
        """Returns the text in an event. Raises FailedInStream when the server says that it failed, and
        ValueError and other errors when it is not what the API promises."""
        if data == _DONE:
            self.over = True
            return ""
        chunk = json.loads(data)
        choices = chunk.get("choices")
        if not choices:
            if "error" in chunk:
                raise FailedInStream(_error_text(chunk["error"]))
            if choices is None:
                raise ValueError("a chunk without choices")
            return ""  # the usage at the end
        choice = choices[0]
        delta = choice.get("delta")
        text = ""
        if delta:
            text = delta.get("content") or delta.get("refusal") or ""
            if not isinstance(text, str):
                raise TypeError("content that is no text")
            calls = delta.get("tool_calls")
            if calls:
                for call in calls:
                    self._take_call(call)
            if text or calls:
                self.moved = self.started = True
        if finish := choice.get("finish_reason"):
            self.finish, self.over = str(finish), True
        return text

    def _take_call(self, part: dict[str, Any]) -> None:
        call = self.calls.setdefault(part.get("index") or 0, {"id": "", "name": "", "arguments": ""})
        call["id"] = call["id"] or part.get("id") or ""
        if function := part.get("function"):
            call["name"] += function.get("name") or ""
            call["arguments"] += function.get("arguments") or ""
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
        """The whole tool calls, in order."""
        return [
            ToolRequest(call["id"] or f"call_{secrets.token_hex(8)}", call["name"], call["arguments"])
            for _, call in sorted(self.calls.items())
        ]


def error_message(body: bytes) -> str:
    """What the server says in the body of a refusal; empty when it says nothing."""
    text = body.decode(errors="replace").strip()
    try:
        found = json.loads(text)
    except ValueError:
        return text
    if isinstance(found, dict):
        for key in ("error", "detail", "message"):
            if found.get(key):
                return _error_text(found[key])
    return text


def _error_text(error: object) -> str:
    if isinstance(error, dict) and error.get("message"):
        return str(error["message"])
    return error if isinstance(error, str) else json.dumps(error)
