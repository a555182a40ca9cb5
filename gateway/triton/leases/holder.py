"""One process's side of a lease table: it counts its sessions, and tells the table on their behalf."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from gateway.triton.errors import TritonError, TritonTimeout, TritonUnavailable
from gateway.triton.leases.types import Change, Record
from gateway.triton.leases.wire import LeasesUnsupported, Wire
from gateway.triton.manager.types import InUse, NotNow

_LOG = logging.getLogger(__name__)

_LINGER_S = 1.0
"""A hold that is dropped and taken again within this time costs nothing."""
_RETRY_S = 1.0
"""Pause before an unanswered word is said again."""
_BEATS = 3
"""Words of a process in the time after which it would hold nothing any more."""
_CHANGE_BEAT_S = 1.0
"""While it changes a model: a table that is new lets others hold the model until it has heard of the change."""


@dataclass(eq=False, slots=True)
class _Begin:
    model: str
    change: Change
    force: bool
    max_loads: int
    done: asyncio.Future[None]

    def said(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "change": self.change.value,
            "force": self.force,
            "max_loads": self.max_loads,
        }


class Holder:
    """`Leases` over a wire to a table.

    One task says all words, one after the other, and each says everything that is held: none can
    overtake another, and none that is lost does harm. The task lives while there is something to say.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        label: str = "",
        lease_s: float = 15.0,
        on_draining: Callable[[float], None] = lambda left_s: None,
    ) -> None:
        """on_draining: told with every answer for how long this Triton gets no new work; 0: it does."""
        self._wire, self._on_draining = wire, on_draining
        self._drains_until: float | None = None
        self._label = label
        self._lease_s = lease_s
        self._holder = secrets.token_hex(8)
        self._seq = 0
        self._table = ""
        self._sessions: dict[str, int] = {}
        self._granted: set[str] = set()
        """Models of which the table knows that we hold them: one more session needs no word."""
        self._wants: dict[str, asyncio.Future[None]] = {}
        self._waiting: dict[str, int] = {}
        """Sessions that wait for the hold on a model."""
        self._changes: dict[str, Change] = {}
        self._begins: list[_Begin] = []
        self._ends: dict[str, dict[str, Any]] = {}
        """By model, since a later one makes an earlier one old news."""
        self._heard: list[asyncio.Future[dict[str, Any]]] = []
        """Who waits for the next answer."""
        self._looks = False
        """One of them wants the records."""
        self._soon: float | None = None
        """When something has to be given back."""
        self._said = float("-inf")
        """When the last word that was answered was sent."""
        self._tried = float("-inf")
        self._unsure_since: float | None = None
        """Since when words were not answered: whether they had an effect is unknown."""
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.words = 0
        """Said so far."""

    async def hold(self, model: str) -> None:
        if model in self._granted and _now() - self._said < self._lease_s:
            self._sessions[model] = self._sessions.get(model, 0) + 1
            return
        want = self._wants.get(model)
        if want is None:
            want = self._wants[model] = _future()
        self._waiting[model] = self._waiting.get(model, 0) + 1
        self._kick()
        try:
            await asyncio.shield(want)
        except asyncio.CancelledError:
            if want.done() and want.exception() is None:
                self.drop(model)
            elif model in self._waiting:
                self._waiting[model] -= 1
            raise

    def drop(self, model: str) -> None:
        count = self._sessions.get(model, 0)
        if count > 1:
            self._sessions[model] = count - 1
        elif count == 1:
            del self._sessions[model]
            self._give_back(_LINGER_S)

    async def begin(self, model: str, change: Change, *, force: bool = False, max_loads: int = 0) -> None:
        begin = _Begin(model, change, force, max_loads, _future())
        self._begins.append(begin)
        self._kick()
        try:
            await begin.done
        except asyncio.CancelledError:
            if not begin.done.cancelled() and begin.done.exception() is None:
                self._changes.pop(model, None)
                self._give_back(0.0)
            raise

    async def end(
        self,
        model: str,
        change: Change,
        *,
        ok: bool,
        why: str = "",
        reason: str = "",
        load_s: float = 0.0,
    ) -> None:
        self._changes.pop(model, None)
        self._ends[model] = {
            "model": model,
            "change": change.value,
            "ok": ok,
            "why": why,
            "reason": reason,
            "load_s": load_s,
            "at": _now(),
        }
        try:
            await self._next_answer()
        except TritonError as error:
            _LOG.warning("that the %s of %s is over is told later: %s", change, model, error)

    async def records(self) -> dict[str, Record]:
        self._looks = True
        answer = await self._next_answer()
        return {name: _record(name, raw) for name, raw in answer["records"].items()}

    async def drain(self, for_s: float) -> None:
        """Tell all who share this Triton to bring it no new work for so long; 0: to bring it again."""
        self._drains_until = _now() + for_s
        await self._next_answer()

    async def start(self) -> None:
        await self._next_answer()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._fail_all(_closing())
        self._sessions.clear()
        self._changes.clear()
        if self._granted or self._ends or task is not None:
            self._granted.clear()
            try:
                await self._wire.ask(self._word(), last=True)
            except TritonError as error:
                _LOG.info("leases not given back, they lapse in %g s: %s", self._lease_s, error)

    async def _next_answer(self) -> dict[str, Any]:
        heard: asyncio.Future[dict[str, Any]] = _future()
        self._heard.append(heard)
        self._kick()
        return await heard

    def _give_back(self, in_s: float) -> None:
        at = _now() + in_s
        self._soon = at if self._soon is None else min(self._soon, at)
        if not self._closed:
            self._kick()

    def _kick(self) -> None:
        if self._closed:
            self._fail_all(_closing())
        elif self._task is None:
            self._task = asyncio.create_task(self._talk(), name="leases", context=Context())
        else:
            self._more.set()

    async def _talk(self) -> None:
        while (pause := self._pause()) is not None:
            if pause <= 0:
                await self._say()
                continue
            self._more.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._more.wait()
            except TimeoutError:
                pass
        self._task = None

    def _pause(self) -> float | None:
        """Seconds until the next word; None: nothing to say."""
        if self._wants or self._begins or self._heard:
            return 0.0
        holds = bool(self._sessions or self._changes)
        if self._unsure_since is not None:
            if not holds and _now() - self._unsure_since > self._lease_s:
                self._unsure_since = self._soon = None  # whatever the table thought, it has lapsed
                self._granted.clear()
                self._ends.clear()
                return None
            return max(self._tried + min(_RETRY_S, self._lease_s / _BEATS) - _now(), 0.0)
        times = [self._soon] if self._soon is not None else []
        if holds:
            beat = self._lease_s / _BEATS
            times.append(self._said + (min(beat, _CHANGE_BEAT_S) if self._changes else beat))
        return max(min(times) - _now(), 0.0) if times else None

    async def _say(self) -> None:
        wants, ends = list(self._wants), self._ends.copy()
        begins = [one for one in self._begins if not one.done.done()]
        heard = [one for one in self._heard if not one.done()]
        self._begins, self._heard, self._soon = [], [], None
        looks, self._looks = self._looks, False
        # What has no session is given back by this word: a session that comes now must ask again.
        self._granted &= self._sessions.keys()
        told = set(self._sessions)
        at = self._tried = _now()
        try:
            try:
                answer = await self._wire.ask(self._word(wants, begins, records=looks))
            except TritonTimeout:
                # Behind a dead process requests wait for one another, each a second: by now it is repaired.
                at = self._tried = _now()
                answer = await self._wire.ask(self._word(wants, begins, records=looks))
            _check(answer, wants, begins)
        except asyncio.CancelledError:
            self._begins, self._heard = begins + self._begins, heard + self._heard
            raise
        except Exception as error:
            known = error if isinstance(error, TritonError) else TritonError(f"the lease table: {error!r}")
            if self._unsure_since is None:
                self._unsure_since = at
                if self._said > 0 or not isinstance(
                    known, LeasesUnsupported
                ):  # at the start its caller tells
                    _LOG.warning("no word with the lease table: %s", known)
            self._fail(wants, begins, heard, known)
            return
        self._said, self._unsure_since = at, None
        self._note_table(answer)
        self._on_draining(float(answer.get("draining_s", 0.0)))
        self._ends = {name: end for name, end in self._ends.items() if ends.get(name) is not end}
        self._granted = told - set(answer["unloading"])
        for name in wants:
            self._settle_want(name, answer["wants"][name])
        for begin, refusal in zip(begins, answer["begins"], strict=True):
            self._settle_begin(begin, refusal)
        for one in heard:
            if not one.done():
                one.set_result(answer)

    def _word(
        self, wants: list[str] | None = None, begins: list[_Begin] | None = None, *, records: bool = False
    ) -> dict[str, Any]:
        self._seq += 1
        self.words += 1
        word: dict[str, Any] = {
            "holder": self._holder,
            "label": self._label,
            "seq": self._seq,
            "lease_s": self._lease_s,
            "holds": dict(self._sessions),
            "changes": {name: change.value for name, change in self._changes.items()},
            "ends": [_told_late(end) for end in self._ends.values()],
            "wants": wants or [],
            "begins": [begin.said() for begin in begins or []],
            "records": records,
        }
        if self._drains_until is not None:  # with each word: a table may be new
            word["drain_s"] = max(0.0, self._drains_until - _now())
        return word

    def _settle_want(self, model: str, refusal: dict[str, Any] | None) -> None:
        want, waiting = self._wants.pop(model), self._waiting.pop(model, 0)
        if refusal is not None:
            want.set_exception(_refused(refusal))
            return
        self._granted.add(model)
        if waiting:
            self._sessions[model] = self._sessions.get(model, 0) + waiting
        else:
            self._give_back(0.0)
        want.set_result(None)

    def _settle_begin(self, begin: _Begin, refusal: dict[str, Any] | None) -> None:
        if refusal is not None:
            if not begin.done.done():
                begin.done.set_exception(_refused(refusal))
        elif begin.done.done():
            self._give_back(0.0)  # given up while it was asked for
        else:
            self._changes[begin.model] = begin.change
            begin.done.set_result(None)

    def _note_table(self, answer: dict[str, Any]) -> None:
        name = str(answer["table"])
        if self._table and name != self._table and self._sessions:
            _LOG.warning(
                "the lease table is a new one: told again that %s are held", ", ".join(self._sessions)
            )
        self._table = name
        for model in answer["lost"]:
            _LOG.warning("%s is being changed by another process as well: we were given up meanwhile", model)

    def _fail_all(self, error: TritonError) -> None:
        begins, heard = self._begins, self._heard
        self._begins, self._heard = [], []
        self._fail(list(self._wants), begins, heard, error)

    def _fail(
        self,
        wants: list[str],
        begins: list[_Begin],
        heard: list[asyncio.Future[dict[str, Any]]],
        error: TritonError,
    ) -> None:
        futures: list[asyncio.Future[Any]] = [*heard, *(begin.done for begin in begins)]
        for name in wants:
            self._waiting.pop(name, None)
            futures.append(self._wants.pop(name))
        for future in futures:
            if not future.done():
                future.set_exception(error)


def _check(answer: dict[str, Any], wants: list[str], begins: list[_Begin]) -> None:
    whole = answer.keys() >= {"table", "lost", "unloading", "wants", "begins"}
    if not whole or answer["wants"].keys() != set(wants) or len(answer["begins"]) != len(begins):
        raise TritonError("the lease table does not answer as it should: is it of another release of Parley?")


def _told_late(end: dict[str, Any]) -> dict[str, Any]:
    """As the table hears it, whose clock is another."""
    return {**{key: value for key, value in end.items() if key != "at"}, "ago_s": _now() - end["at"]}


def _refused(refusal: dict[str, Any]) -> TritonError:
    text = str(refusal["text"])
    if refusal["kind"] == "in_use":
        return InUse(text, leases=int(refusal["leases"]))
    return NotNow(text, wait_s=float(refusal["wait_s"]))


def _record(name: str, raw: dict[str, Any]) -> Record:
    return Record(
        model=name,
        holders=int(raw["holders"]),
        labels=tuple(raw["labels"]),
        sessions=int(raw["sessions"]),
        changing=Change(raw["change"]) if raw["change"] else None,
        changer=str(raw["changer"]),
        changing_s=float(raw["changing_s"]),
        since_s=raw["since_s"],
        idle_s=float(raw["idle_s"]),
        why=str(raw["why"]),
        reason=str(raw["reason"]),
        failures=int(raw["failures"]),
        failed_s=raw["failed_s"],
        load_s=float(raw["load_s"]),
    )


def _closing() -> TritonError:
    return TritonUnavailable("this process gives its leases back: it is about to end")


def _now() -> float:
    return asyncio.get_running_loop().time()


def _future() -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.add_done_callback(_seen)
    return future


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()  # who waited for it may have gone
