"""What the session asks of a language model. `openai_llm.py` is the real one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol


class LlmError(Exception):
    """The model failed or fell silent. `str()` is fit for the client: no secret, no traceback."""


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    """`system`, `user`, `assistant` or `tool`."""
    content: str
    """Text; an interrupted assistant message holds what was heard."""
    tool_call_id: str = ""
    """The call a `tool` message answers."""
    tool_calls: tuple[ToolRequest, ...] = ()
    """Calls an `assistant` message made."""


@dataclass(frozen=True, slots=True)
class ToolRequest:
    call_id: str
    """Chosen by the model."""
    name: str
    """Function name."""
    arguments: str
    """JSON."""


@dataclass(frozen=True, slots=True)
class ToolOffer:
    name: str
    """Function name."""
    description: str
    """For the model."""
    parameters: str
    """JSON schema of the arguments; empty: none."""


class LanguageModel(Protocol):
    """One per process; shared by all sessions."""

    def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolOffer] = ()
    ) -> AsyncGenerator[str | ToolRequest, None]:
        """One reply, text as it is made; requests to call `tools` come last.

        Retries only before the first token and within `llm.first_token_ms` in all. `aclose()` (and
        cancellation) ends the HTTP stream, so that the server stops generating.
        Raises: LlmError.
        """
        ...

    def warm_up(self, messages: Sequence[Message] = (), tools: Sequence[ToolOffer] = ()) -> None:
        """A hint that a prompt comes soon; returns at once and never fails.

        Without messages a connection is made ready (nothing, with `llm.warm_up` off or one at hand);
        with messages, the beginning of the prompts to come, the model is asked for one token after them.
        """
        ...

    async def check(self) -> None:
        """Raises LlmError when the endpoint cannot be reached (readiness)."""
        ...

    async def close(self) -> None: ...
