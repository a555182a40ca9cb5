"""One Triton, or one speech service, of several, as those who use it see it."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from gateway.triton.line import Line
from gateway.triton.model_info import ModelInfo

T = TypeVar("T")


class Health(StrEnum):
    UP = "up"
    SUSPECT = "suspect"
    """A call has failed, or it is new: whether it can be used is being found out."""
    LOST = "lost"
    """It takes no new calls until it answers again."""


class Models(Protocol):
    """What routing asks of a server's model manager; from memory."""

    def resident(self) -> list[ModelInfo]:
        """Models that take requests at once."""
        ...

    def known(self) -> list[ModelInfo]:
        """Every model that could be served, resident or not."""
        ...


class Server(Generic[T]):
    """Its `line` is for calls; `servers.use()` gives it out and counts who has it."""

    def __init__(self, address: str, name: str, line: Line[T]) -> None:
        self.address = address
        """host:port"""
        self.name = name
        """The host name that it was found by, where several have it; else ""."""
        self.line = line
        self.models: Models | None = None
        """What attends to it (see Servers)."""
        self.attended = True
        """False until what has to be done before it is used has been done."""
        self.problem: Exception | None = None
        """Why it cannot be attended to."""
        self.health = Health.UP
        self.resting = False
        """It has said that it takes no new calls, those in progress may end: it is about to go, or its models are."""
        self.removed = False
        """It is not listed any more: those who have it may end in peace, and nobody new gets it."""
        self.users = 0
        self.losses = 0
        """How often it was lost since a call last went well."""
        self._verdict: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Server {self.address} {self.health}{' removed' if self.removed else ''}{' resting' if self.resting else ''} users={self.users}>"

    @property
    def takes_calls(self) -> bool:
        """As far as is known now: a suspect counts."""
        return self.still_serves and not self.resting

    @property
    def still_serves(self) -> bool:
        """Those who have it already, be it about to go or not."""
        return self.attended and not self.removed and self.health is not Health.LOST

    def suspect(self) -> None:
        self.health = Health.SUSPECT
        if self._verdict is None:
            self._verdict = asyncio.get_running_loop().create_future()

    def judge(self, health: Health) -> None:
        self.health = health
        verdict, self._verdict = self._verdict, None
        if verdict is not None:
            verdict.set_result(None)

    async def verdict(self) -> None:
        """Until it is known whether a suspect is lost; at once for all others."""
        if self._verdict is not None:
            await asyncio.shield(self._verdict)
