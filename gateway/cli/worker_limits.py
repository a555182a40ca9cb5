"""The limits of a key over several worker processes: their parent counts.

A worker asks for each call of a key that has limits; a question and its answer take some tenths of a millisecond.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any

from gateway.cli.link import Link, Message
from gateway.cli.worker_process import WorkerProcess
from gateway.identity import Caller, Denied
from gateway.identity.limits import Limits

_ASK_S = 2.0


class SharedLimits:
    """The parent's side."""

    def __init__(self) -> None:
        self.limits = Limits(asyncio.get_running_loop().time)
        """Also for what the parent serves itself."""
        self._held: dict[WorkerProcess, Counter[str]] = {}

    def on_message(self, worker: WorkerProcess, message: Message) -> None:
        held = self._held.setdefault(worker, Counter())
        if "enter" in message:
            asked = message["caller"]
            caller = Caller(**asked | {"scopes": frozenset()})
            answer: dict[str, Any] = {"entered": message["enter"]}
            try:
                self.limits.enter_now(caller)
                if caller.max_sessions:
                    held[caller.id] += 1
            except Denied as denied:
                answer |= {"denied": str(denied), "retry_after_s": denied.retry_after_s}
            worker.tell(answer)
        elif "leave" in message and held[message["leave"]] > 0:
            held[message["leave"]] -= 1
            self.limits.leave_id(message["leave"])

    def forget(self, worker: WorkerProcess) -> None:
        """Its process is gone, and with it the calls that it held."""
        for caller_id, calls in self._held.pop(worker, Counter[str]()).items():
            self.limits.leave_id(caller_id, calls)


class ParentCounts:
    """The worker's side: `gateway.identity.limits.Counting`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[Caller, asyncio.Future[Message]]] = {}

    async def enter(self, caller: Caller) -> None:
        number = next(self._numbers)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = caller, answer
        fields = ("name", "id", "max_sessions", "per_minute")
        self._link.send({"enter": number, "caller": {field: getattr(caller, field) for field in fields}})
        try:
            async with asyncio.timeout(_ASK_S):
                try:
                    told = await answer
                except asyncio.CancelledError:
                    if not answer.cancelled() and "denied" not in answer.result():
                        self.leave(caller)  # let in, and gone at the same moment
                    raise
        except TimeoutError:
            raise Denied(
                "unavailable", "the limits of this key cannot be counted now: try again", retry_after_s=1.0
            ) from None
        if "denied" in told:
            raise Denied("limit", told["denied"], retry_after_s=told["retry_after_s"])

    def leave(self, caller: Caller) -> None:
        if caller.max_sessions:
            self._link.send({"leave": caller.id})

    def on_answer(self, message: Message) -> None:
        """What the parent says to an `enter`. Where nobody waits for it any more, the call is given back."""
        caller, answer = self._waiting.pop(message["entered"])
        if not answer.done():
            answer.set_result(message)
        elif "denied" not in message:
            self.leave(caller)
