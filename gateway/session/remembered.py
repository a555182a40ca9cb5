"""What another replica needs to go on with a session, and its sealed form."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from gateway.session import events as ev
from gateway.session.sealing import OVERHEAD, Seal
from gateway.think.history import History

_SETTINGS_SHARE = 0.5
"""Settings longer than this share of the bound are left out: a client sends its own with every start."""


class Unusable(Exception):
    """A token that opens no session; `str()` says why, to go in the middle of a sentence."""

    def __init__(self, outcome: str, why: str) -> None:
        super().__init__(why)
        self.outcome = outcome
        """For the metric: `expired` or `refused`."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A session as it was after a turn. Of two, the one with the greater `order` is the later one."""

    session_id: str
    caller: str
    """Who may go on with it."""
    epoch: int = 1
    """Grows each time that the session is taken up again."""
    serial: int = 0
    """Grows with each change within an epoch."""
    chosen: ev.Configure = field(default_factory=ev.Configure)
    turns: list[list[dict[str, Any]]] = field(default_factory=list)
    """As `think.history.History.dump` has them, oldest first."""
    ticket: bool = False
    """It only names the session; the history lies in the store."""

    @property
    def order(self) -> tuple[int, int]:
        return self.epoch, self.serial


def sealed(what: Remembered, seal: Seal, *, until: float, max_bytes: int) -> bytes:
    """until: UNIX time (s) after which it opens no more. Of what is too long for `max_bytes` the oldest turns are
    left out, and settings that take most of it."""
    body: dict[str, Any] = {"id": what.session_id, "who": what.caller, "until": round(until)}
    body |= {"epoch": what.epoch, "serial": what.serial}
    if what.ticket:
        return seal.seal(_json(body | {"ticket": True}))
    chosen = {name: value for name, value in asdict(what.chosen).items() if value is not None}
    if len(_json(chosen)) <= max_bytes * _SETTINGS_SHARE:
        body["chosen"] = chosen
    left = max_bytes - OVERHEAD - len(_json(body | {"turns": []}))
    kept: list[list[dict[str, Any]]] = []
    for turn in reversed(what.turns):
        left -= len(_json(turn)) + 1
        if left < 0:
            break
        kept.append(turn)
    return seal.seal(_json(body | {"turns": kept[::-1]}))


def opened(token: bytes, seal: Seal, *, caller: str, now: float) -> Remembered:
    """Raises Unusable: of another key, another caller's, expired, of another version. now: UNIX time, s."""
    try:
        body = json.loads(seal.open(token))
    except ValueError as error:
        raise Unusable("refused", f"its token does not open ({error})") from None
    try:
        if body["who"] != caller:
            raise Unusable("refused", "its token is another caller's")
        if now > body["until"]:
            raise Unusable("expired", "its token has expired")
        return _remembered(body)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unusable("refused", "its token is of a version that this one does not read") from None


def _remembered(body: dict[str, Any]) -> Remembered:
    """Raises KeyError, TypeError, ValueError, AttributeError for what `sealed` does not write."""
    chosen = body.get("chosen", {})
    if chosen.get("tools") is not None:
        chosen["tools"] = tuple(ev.Tool(**tool) for tool in chosen["tools"])
    known = {name: value for name, value in chosen.items() if name in ev.Configure.__slots__}
    turns = body.get("turns", [])
    History("", max_turns=1).restore(turns)
    return Remembered(
        body["id"],
        body["who"],
        body["epoch"],
        body["serial"],
        ev.Configure(**known),
        turns,
        ticket=body.get("ticket", False),
    )


def _json(value: object) -> bytes:
    # a lone surrogate, which a model's token may hold, has no UTF-8
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
