"""The lease table: which processes hold which models, and which model is being loaded or unloaded.

Pure: no clock, no wire; the time is passed in (seconds, monotonic). Standard library only and no import
of Parley, since this very file also runs inside Triton (any Python from 3.8), where its lifetime is that
of the models it speaks of.

A process says everything it holds and changes with each message (`tell`), so that one that came late,
twice or not at all is made good by the next, and a table that is new is complete again after one word
of each process.
"""

from __future__ import annotations

from typing import Any

PROTOCOL = 1
"""Of messages and replies; a table answers messages of later protocols as well as it can."""

LOAD = "load"
UNLOAD = "unload"

_MOST_HOLDERS = 4_096
_MOST_MODELS = 4_096
"""Models nobody holds, changes or has loaded are forgotten first, the longest untouched before others."""
_LONGEST_NAME = 256
_LONGEST_DRAIN_S = 86_400.0
_CHANGE_WAIT_S = 0.5
"""When to ask again while somebody changes the model: nobody knows how long that takes."""


class Holder:
    """A process."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.seq = -1
        self.seen = 0.0
        self.lease_s = 0.0
        self.holds: dict[str, int] = {}
        """Sessions by model, at its last word."""


class Model:
    """What is known of a model."""

    def __init__(self, now: float) -> None:
        self.touched = now
        self.change = ""
        self.changer = ""
        self.changing_since = now
        self.decided = float("-inf")
        """When a change began or ended last, and whose it was."""
        self.decider = ""
        self.since: float | None = None
        self.used = now
        self.why = ""
        self.reason = ""
        self.failures = 0
        self.failed_at: float | None = None
        self.load_s = 0.0


class Table:
    """name: random, so that processes notice a new table. grace_s: no unload for so long without force."""

    def __init__(self, now: float, *, name: str, grace_s: float = 0.0) -> None:
        self.name = name
        self.holders: dict[str, Holder] = {}
        self.models: dict[str, Model] = {}
        self._quiet_until = now + grace_s
        self._drains_until = now
        """Until then this Triton is about to end: it gets no new work."""

    def tell(self, message: dict[str, Any], now: float) -> dict[str, Any]:
        """One word of a process, and the answer. Everything in it takes effect, or nothing does.

        message: holder, label, seq (grows), lease_s; holds {model: sessions} and changes {model: change}
            it has now, all of them; ends [{model, change, ok, why, reason, load_s, ago_s}], told so long
            after; wants [model], to be held; begins [{model, change, force, max_loads}]; records: true asks for them;
            drain_s: this Triton is about to end, and gets no new work for so long (0: it is not after all).
        Reply: table; wants {model: null or refusal}; begins [null or refusal]; unloading, the held
            models that are being unloaded; lost, the changes that somebody else has; records; draining_s, for how
            long there is no new work for it (0: there is).
            A refusal is {kind: "in_use" or "not_now", text, leases, wait_s}.
        Raises: ValueError for a message that cannot be read.
        """
        word = _Word(message)
        self._lapse(now)
        reply: dict[str, Any] = {"protocol": PROTOCOL, "table": self.name}
        known = self.holders.get(word.holder)
        if known is not None and word.seq <= known.seq:
            return {**reply, "stale": True}
        if known is None:
            if len(self.holders) >= _MOST_HOLDERS:
                raise ValueError(f"more than {_MOST_HOLDERS} processes hold leases")
            known = self.holders[word.holder] = Holder(word.label)
        known.label, known.seq, known.seen, known.lease_s = word.label, word.seq, now, word.lease_s
        if word.drain_s is not None:
            self._drains_until = now + word.drain_s
        reply["draining_s"] = max(0.0, self._drains_until - now)
        for end in word.ends:
            self._end(word.holder, end, now)
        reply["lost"] = self._assert_changes(word.holder, word.changes, now)
        self._assert_holds(known, word.holds, now)
        reply["wants"] = {name: self._want(known, name, now) for name in word.wants}
        reply["begins"] = [self._begin(word.holder, begin, now) for begin in word.begins]
        reply["unloading"] = [name for name in known.holds if self._changes(name) == UNLOAD]
        if word.records:
            reply["records"] = self.records(now)
        self._forget()
        return reply

    def records(self, now: float) -> dict[str, dict[str, Any]]:
        """Every model that is known, with ages in seconds."""
        self._lapse(now)
        return {name: self._record(name, model, now) for name, model in self.models.items()}

    def _record(self, name: str, model: Model, now: float) -> dict[str, Any]:
        holders = self._holders_of(name)
        changer = self.holders.get(model.changer)
        return {
            "holders": len(holders),
            "labels": [holder.label for holder in holders],
            "sessions": sum(holder.holds[name] for holder in holders),
            "change": model.change,
            "changer": changer.label if changer is not None else "",
            "changing_s": now - model.changing_since if model.change else 0.0,
            "since_s": None if model.since is None else now - model.since,
            "idle_s": 0.0 if holders else now - model.used,
            "why": model.why,
            "reason": model.reason,
            "failures": model.failures,
            "failed_s": None if model.failed_at is None else now - model.failed_at,
            "load_s": model.load_s,
        }

    def _assert_holds(self, holder: Holder, holds: dict[str, int], now: float) -> None:
        before, holder.holds = holder.holds, dict(holds)
        for name in holds:
            self._model(name, now)
        for name in before:
            if name not in holds:
                self._used(name, now)

    def _assert_changes(self, holder: str, changes: dict[str, str], now: float) -> list[str]:
        lost = []
        for name, model in self.models.items():
            if model.changer == holder and name not in changes:
                self._clear(model)
        for name, change in changes.items():
            model = self._model(name, now)
            if model.change and model.changer != holder:
                lost.append(name)
            elif not model.change:  # this table is new, or had given the process up
                self._set(model, change, holder, now)
        return lost

    def _want(self, holder: Holder, name: str, now: float) -> dict[str, Any] | None:
        model = self._model(name, now)
        if model.change == UNLOAD:
            return self._busy(name, model)
        holder.holds.setdefault(name, 1)
        return None

    def _begin(self, holder: str, begin: dict[str, Any], now: float) -> dict[str, Any] | None:
        name, change, force = begin["model"], begin["change"], begin["force"]
        model = self._model(name, now)
        if model.change:
            return self._busy(name, model)
        if change == UNLOAD and not force:
            holders = self._holders_of(name)
            if holders:
                leases = sum(one.holds[name] for one in holders)
                who = ", ".join(sorted({one.label for one in holders})[:5])
                text = f"{name} is in use by {leases} session{'s' * (leases != 1)} ({who})"
                return {"kind": "in_use", "text": text, "leases": leases, "wait_s": 0.0}
            if now < self._quiet_until:
                left = self._quiet_until - now
                text = f"{name} is not unloaded yet: the lease table is new, and who holds what is known in {left:.1f} s"
                return _not_now(text, left)
        if change == LOAD and begin["max_loads"]:
            loads = sum(one.change == LOAD for one in self.models.values())
            if loads >= begin["max_loads"]:
                text = f"{name} waits: {loads} model{'s' * (loads != 1)} being loaded already"
                return _not_now(text, _CHANGE_WAIT_S)
        self._set(model, change, holder, now)
        return None

    def _end(self, holder: str, end: dict[str, Any], now: float) -> None:
        model = self._model(end["model"], now)
        when = now - end["ago_s"]
        if model.changer == holder:
            self._clear(model)
        elif model.change or (when < model.decided and model.decider != holder):
            return  # it was given up, and another has gone on from there: old news
        model.decided, model.decider = max(when, model.decided), holder
        if end["ok"] and end["change"] == LOAD:
            model.since = when
            model.used = max(model.used, when)
            model.why = end["why"] or model.why
            model.load_s = end["load_s"]
        elif end["ok"]:
            model.since, model.why = None, ""
        model.reason = "" if end["ok"] else end["reason"]
        if end["change"] == LOAD:
            model.failures = 0 if end["ok"] else model.failures + 1
            model.failed_at = None if end["ok"] else when

    def _busy(self, name: str, model: Model) -> dict[str, Any]:
        changer = self.holders.get(model.changer)
        by = f" by {changer.label}" if changer is not None and changer.label else ""
        return _not_now(f"{name} is being {model.change}ed{by}", _CHANGE_WAIT_S)

    def _lapse(self, now: float) -> None:
        for key, holder in list(self.holders.items()):
            end = holder.seen + holder.lease_s
            if now <= end:
                continue
            del self.holders[key]
            for name in holder.holds:
                self._used(name, end)
            for model in self.models.values():
                if model.changer == key:
                    self._clear(model)

    def _forget(self) -> None:
        excess = len(self.models) - _MOST_MODELS
        if excess <= 0:
            return
        held = {name for holder in self.holders.values() for name in holder.holds}
        idle = [n for n, m in self.models.items() if n not in held and not m.change and m.since is None]
        for name in sorted(idle, key=lambda n: self.models[n].touched)[:excess]:
            del self.models[name]

    def _holders_of(self, name: str) -> list[Holder]:
        return [holder for holder in self.holders.values() if name in holder.holds]

    def _model(self, name: str, now: float) -> Model:
        model = self.models.get(name)
        if model is None:
            model = self.models[name] = Model(now)
        model.touched = now
        return model

    def _changes(self, name: str) -> str:
        model = self.models.get(name)
        return model.change if model is not None else ""

    def _used(self, name: str, when: float) -> None:
        model = self.models.get(name)
        if model is not None:
            model.used = max(model.used, when)

    def _set(self, model: Model, change: str, holder: str, now: float) -> None:
        model.change, model.changer, model.changing_since = change, holder, now
        model.decided, model.decider = now, holder

    def _clear(self, model: Model) -> None:
        model.change = model.changer = ""


class _Word:
    """A message, checked: nothing of one that cannot be read takes effect."""

    def __init__(self, message: dict[str, Any]) -> None:
        try:
            self.holder = _name(message["holder"])
            self.label = str(message.get("label", ""))[:_LONGEST_NAME]
            self.seq = int(message["seq"])
            self.lease_s = min(max(float(message["lease_s"]), 0.1), 3_600.0)
            self.holds = {_name(k): max(int(v), 1) for k, v in message.get("holds", {}).items()}
            self.changes = {_name(k): _change(v) for k, v in message.get("changes", {}).items()}
            self.wants = [_name(one) for one in message.get("wants", [])]
            self.ends = [
                {
                    "model": _name(one["model"]),
                    "change": _change(one["change"]),
                    "ok": bool(one["ok"]),
                    "why": str(one.get("why", ""))[:_LONGEST_NAME],
                    "reason": str(one.get("reason", ""))[:2_000],
                    "load_s": max(float(one.get("load_s", 0.0)), 0.0),
                    "ago_s": max(float(one.get("ago_s", 0.0)), 0.0),
                }
                for one in message.get("ends", [])
            ]
            self.begins = [
                {
                    "model": _name(one["model"]),
                    "change": _change(one["change"]),
                    "force": bool(one.get("force", False)),
                    "max_loads": max(int(one.get("max_loads", 0)), 0),
                }
                for one in message.get("begins", [])
            ]
            self.records = bool(message.get("records", False))
            drain_s = message.get("drain_s")
            self.drain_s = None if drain_s is None else min(max(float(drain_s), 0.0), _LONGEST_DRAIN_S)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"this is no word of a process: {error!r}") from None


def _name(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME:
        raise ValueError("a name is a text of 1 to 256 characters")
    return value


def _change(value: object) -> str:
    if value not in (LOAD, UNLOAD):
        raise ValueError("a change is load or unload")
    return str(value)


def _not_now(text: str, wait_s: float) -> dict[str, Any]:
    return {"kind": "not_now", "text": text, "leases": 0, "wait_s": wait_s}
