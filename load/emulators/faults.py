"""Faults on command: which request of which part fails, how, and after how many of its messages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

Part = Literal["asr", "llm", "tts"]
Kind = Literal["stall", "refuse", "die", "garbage", "drip"]
PARTS: tuple[Part, ...] = get_args(Part)
KINDS: tuple[Kind, ...] = get_args(Kind)
DRIP_MS = 400.0
_MOST = 1_000_000
_MOST_ORDERS = 1_000


class BadOrder(ValueError):
    """A command that cannot be carried out. `str()` says why and what to send instead."""


class Died(Exception):
    """The emulated part died in the middle of this request."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request."""

    kind: Kind
    after: int = 1
    """Messages that go out before it strikes; `refuse` strikes at once."""
    drip_ms: float = DRIP_MS
    """Between two messages of a slow drip."""

    @property
    def refuses(self) -> bool:
        return self.kind == "refuse"


@dataclass(slots=True)
class _Order:
    fault: Fault
    left: int
    until: float
    """Loop time; later requests are spared."""


class Faults:
    """What was ordered and not yet done, for every part in the order it came."""

    def __init__(self) -> None:
        self._orders: dict[Part, list[_Order]] = {part: [] for part in PARTS}
        self.struck: dict[Part, int] = dict.fromkeys(PARTS, 0)
        """Requests that were given a fault."""

    def order(self, raw: Mapping[str, Any]) -> None:
        """{"part", "kind", "count" | "for_s", "after", "drip_ms"}. Raises: BadOrder."""
        part = part_of(raw)
        kind = raw.get("kind")
        if kind not in KINDS:
            raise BadOrder(f"kind is {kind!r}: send one of {', '.join(KINDS)}")
        unknown = set(raw) - {"part", "kind", "count", "for_s", "after", "drip_ms"}
        if unknown:
            raise BadOrder(f"a fault has no {', '.join(sorted(unknown))}")
        if "count" in raw and "for_s" in raw:
            raise BadOrder("send count or for_s, not both")
        fault = Fault(
            cast(Kind, kind),
            int(number(raw, "after", 1, most=_MOST)),
            number(raw, "drip_ms", DRIP_MS, most=60_000),
        )
        until = float("inf")
        count = int(number(raw, "count", 1, most=_MOST))
        if "for_s" in raw:
            until = asyncio.get_running_loop().time() + number(raw, "for_s", 0, most=86_400)
            count = _MOST
        if len(self._orders[part]) >= _MOST_ORDERS:
            raise BadOrder(f"{part} has {_MOST_ORDERS} faults to come already: send DELETE /fault first")
        self._orders[part].append(_Order(fault, count, until))

    def clear(self) -> None:
        for orders in self._orders.values():
            orders.clear()

    def take(self, part: Part) -> Fault | None:
        """The fault of a request that comes now, if it is to have one."""
        orders = self._orders[part]
        if not orders:
            return None
        now = asyncio.get_running_loop().time()
        while orders and (orders[0].left <= 0 or orders[0].until <= now):
            orders.pop(0)
        if not orders:
            return None
        orders[0].left -= 1
        self.struck[part] += 1
        return orders[0].fault


class Strike:
    """The fault of one request while its messages go out."""

    def __init__(self, fault: Fault | None) -> None:
        self._fault = fault
        self._sent = 0

    @property
    def is_set(self) -> bool:
        return self._fault is not None

    async def before(self) -> bool:
        """To be awaited before each message. True: send garbage in its place.

        Stalls for ever (the client gives up), drips, or raises Died.
        """
        fault = self._fault
        if fault is None:
            return False
        self._sent += 1
        if self._sent <= fault.after:
            return False
        if fault.kind == "stall":
            await asyncio.get_running_loop().create_future()
        elif fault.kind == "drip":
            await asyncio.sleep(fault.drip_ms / 1000)
        elif fault.kind == "die":
            raise Died
        return fault.kind == "garbage"


def part_of(raw: Mapping[str, Any]) -> Part:
    """Raises: BadOrder."""
    part = raw.get("part")
    if part not in PARTS:
        raise BadOrder(f"part is {part!r}: send one of {', '.join(PARTS)}")
    return cast(Part, part)


def number(raw: Mapping[str, Any], name: str, default: float, *, most: float) -> float:
    """Raises: BadOrder."""
    value = raw.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise BadOrder(f"{name} is {value!r}: send a number between 0 and {most:g}")
    return float(value)
