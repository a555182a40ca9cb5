"""What was said in a session, as the messages of the next prompt."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from gateway.think.llm import Message, ToolRequest

INTERRUPTED_NOTE = "[The user interrupted your last reply; they heard it only up to the “…”.]"
"""Opens the user message after an interrupted reply. It stands there, not in the reply, so that no model learns to say it."""


@dataclass(frozen=True, slots=True)
class _Entry:
    message: Message
    interrupted: bool = False


class History:
    """The system prompt and the last turns, at most `max_turns`.

    When they are too many the oldest quarter is dropped at once: from turn to turn a prompt begins with the
    one before it, which is what a server's prefix cache lives from. A turn, with its tool calls and their
    results, stays together.
    """

    def __init__(self, system_prompt: str, max_turns: int) -> None:
        if max_turns < 1:
            raise ValueError("max_turns must be at least 1")
        self._system = system_prompt
        self._max_turns = max_turns
        self._turns: deque[list[_Entry]] = deque()

    def set_system(self, text: str) -> None:
        """Replaces the system prompt; an empty one is left out."""
        self._system = text

    def user(self, text: str) -> None:
        """What the user said; begins a turn. Whitespace alone adds nothing."""
        if text.strip():
            self._begin(_Entry(Message("user", text.strip())))

    def assistant(self, text: str, interrupted: bool = False) -> None:
        """What the user heard of a reply; nothing heard adds nothing."""
        text = text.strip()
        if not text:
            return
        if interrupted and not text.endswith(("…", "...")):
            text += "…"
        entry = _Entry(Message("assistant", text), interrupted)
        if self._turns and not _is_answered(self._turns[-1]):
            self._turns[-1].append(entry)
        else:
            self._begin(entry)

    def tool(self, request: ToolRequest, output: str) -> None:
        """A call the model made and its result, JSON or text."""
        if not self._turns:
            self._begin()
        self._turns[-1] += [
            _Entry(Message("assistant", "", tool_calls=(request,))),
            _Entry(Message("tool", output, tool_call_id=request.call_id)),
        ]

    def _begin(self, *entries: _Entry) -> None:
        self._turns.append(list(entries))
        if len(self._turns) > self._max_turns:
            for _ in range(max(1, self._max_turns // 4)):
                self._turns.popleft()

    def dump(self) -> list[list[dict[str, Any]]]:
        """The turns, oldest first, as plain values that JSON can hold; for `restore`. The system prompt is no part."""
        return [[_plain(entry) for entry in turn] for turn in self._turns]

    def restore(self, turns: Iterable[list[dict[str, Any]]]) -> None:
        """In place of what is there, what `dump` gave. Raises KeyError, TypeError, ValueError for anything else."""
        restored = [[_entry(**plain) for plain in turn] for turn in turns]
        self._turns = deque(restored[-self._max_turns :])

    def messages(self, pending_user: str = "") -> list[Message]:
        """The prompt; `pending_user` is added as the user's words without being kept.

        Roles alternate, as some models' chat templates demand: what the user said before and after a
        reply that nobody heard is one message.
        """
        entries = [entry for turn in self._turns for entry in turn]
        if pending_user.strip():
            entries.append(_Entry(Message("user", pending_user.strip())))
        messages = [Message("system", self._system)] if self._system else []
        interrupted = False
        for entry in entries:
            message = entry.message
            if message.role == "user" and interrupted:
                message = replace(message, content=f"{INTERRUPTED_NOTE}\n{message.content}")
            interrupted = entry.interrupted
            if messages and _may_join(messages[-1], message):
                last = messages[-1]
                messages[-1] = replace(last, content=f"{last.content}\n{message.content}")
            else:
                messages.append(message)
        return messages


def _plain(entry: _Entry) -> dict[str, Any]:
    message = entry.message
    plain: dict[str, Any] = {"role": message.role, "text": message.content}
    if entry.interrupted:
        plain["cut"] = True
    if message.tool_call_id:
        plain["answers"] = message.tool_call_id
    if message.tool_calls:
        plain["calls"] = [[call.call_id, call.name, call.arguments] for call in message.tool_calls]
    return plain


def _entry(
    role: str, text: str, cut: bool = False, answers: str = "", calls: Iterable[Iterable[str]] = ()
) -> _Entry:
    return _Entry(Message(role, text, answers, tuple(ToolRequest(*call) for call in calls)), cut)


def _is_answered(turn: list[_Entry]) -> bool:
    last = turn[-1].message if turn else None
    return last is not None and last.role == "assistant" and not last.tool_calls


def _may_join(last: Message, message: Message) -> bool:
    plain = not last.tool_calls and not message.tool_calls
    return plain and last.role == message.role and message.role in ("user", "assistant")
