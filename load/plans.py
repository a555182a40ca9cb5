"""How the callers of a scenario behave, as plans of the callers' program (see load/caller/order.go)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Plan = dict[str, Any]

SCENARIOS = {
    "baseline": "one caller, for a reference",
    "steady": "so many callers, all the time",
    "ramp": "more and more callers, until the objective breaks",
    "spike": "from none to all within 5 s",
    "barge_in": "everybody interrupts every reply",
    "slow_readers": "a third read at half real time or not at all",
    "reconnect": "a storm of calls of a second or less; half of them break off",
    "mixed": "talkers, interrupters, slow readers, and those who come and go",
    "endurance": "calls of a few turns without end; one in ten breaks off",
}

_CONVERSE: Plan = {"think_ms": [800, 2_500]}
_INTERRUPT: Plan = {"think_ms": [300, 900], "interrupt": 1.0, "interrupt_ms": [400, 1_800]}
_COME_AND_GO: Plan = {"think_ms": [0, 200], "life_ms": [50, 1_500]}


class BadTarget(ValueError):
    """`--host` is none; `str()` says what to give."""


@dataclass(frozen=True, slots=True)
class Target:
    """The gateway, and what every caller asks of it."""

    host: str
    clips: str
    tls: bool = False
    ca: str = ""
    key: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    """Further fields of the plan, by name."""

    def plan(self) -> Plan:
        plan: Plan = {"host": self.host, "tls": self.tls, "ca": self.ca, "key": self.key, "clips": self.clips}
        return {**plan, **dict(self.options)}


def split_host(text: str) -> tuple[str, bool]:
    """(host:port, over TLS) of what a locust user types. Raises BadTarget.

    A URL's scheme says whether TLS is spoken: `https`, `grpcs`; and which port when it names none.
    """
    parts = urlsplit(text if "//" in text else f"//{text}")
    tls = parts.scheme in ("https", "grpcs")
    try:
        port = parts.port or ({"https": 443, "grpcs": 443, "http": 80}.get(parts.scheme))
    except ValueError:
        port = None
    if not parts.hostname or not port:
        raise BadTarget(f"--host {text!r} is no gateway's address: give host:port, such as 127.0.0.1:50061")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}", tls


def behaviour(scenario: str, chance: random.Random) -> Plan:
    """The plan's fields by which callers of the scenario differ; drawn anew for every call."""
    draw = chance.random()
    match scenario:
        case "baseline":
            return {"think_ms": [200, 500]}  # a short run shall hold several turns
        case "barge_in":
            return _INTERRUPT
        case "slow_readers":
            return {**_CONVERSE, "read": "slow" if draw < 0.2 else "stall" if draw < 1 / 3 else "normal"}
        case "reconnect":
            return {**_COME_AND_GO, "hang_up": "rude" if draw < 0.5 else "clean"}
        case "endurance":
            turns, rude = chance.randint(2, 6), draw < 0.1
            return {**_CONVERSE, "turns": turns, "hang_up": "rude" if rude else "clean"}
        case "mixed":
            return _mixed(draw)
        case _:
            return _CONVERSE


def _mixed(draw: float) -> Plan:
    if draw < 0.6:
        return {**_CONVERSE, "turns": 5}
    if draw < 0.8:
        return {**_INTERRUPT, "turns": 5}
    if draw < 0.9:
        return {**_COME_AND_GO, "hang_up": "rude" if draw < 0.85 else "clean"}
    return {**_CONVERSE, "turns": 3, "read": "slow" if draw < 0.95 else "stall"}
