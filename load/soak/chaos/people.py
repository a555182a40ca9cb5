"""Callers that talk all the time, and call again whenever they were cut off."""

from __future__ import annotations

import asyncio
import csv
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load.run.fleet import Fleet, Sample

_FOR_EVER_S = 24 * 3600.0
_AGAIN_S = (0.1, 0.4)
_LONGEST_MS = 1_500.0


@dataclass(frozen=True, slots=True)
class Event:
    """One of a caller's samples (load/caller)."""

    t: float
    """UNIX seconds."""
    caller: int
    name: str
    ms: float
    ok: bool
    why: str


class People:
    """`come()`, and later `leave()`; in between everybody talks. Their events are kept."""

    def __init__(self, plan: dict[str, Any], hosts: Sequence[str], seed: int) -> None:
        """plan: of every call but for its host. hosts: one for each of them."""
        self._plan, self._hosts = plan, hosts
        self._chance = random.Random(seed)
        self._fleet: Fleet | None = None
        self._who: dict[int, int] = {}
        """Callers by the number of their call."""
        self._calls: dict[int, int] = {}
        """Numbers of the present calls by caller."""
        self._tasks: list[asyncio.Task[None]] = []
        self._leaving = False
        self._news = asyncio.Event()
        self.events: list[Event] = []
        self._spoke: dict[int, float] = {}
        """When each has last heard a reply to its end."""
        self.present: set[int] = set()
        """Who is connected."""

    def heard(self, sample: Sample) -> None:
        """A fleet's `on_sample`."""
        caller = self._who.get(sample["id"])
        if caller is None:
            return
        event = Event(
            float(sample["t"]), caller, sample["name"], float(sample["ms"]), bool(sample["ok"]), sample["why"]
        )
        self.events.append(event)
        match event.name:
            case "turn" if event.ok:
                self._spoke[caller] = event.t
            case "connect" if event.ok:
                self.present.add(caller)
            case "session":
                self.present.discard(caller)
            case _:
                return
        self._news.set()

    def come(self, fleet: Fleet) -> None:
        self._fleet, self._leaving = fleet, False
        self._tasks = [asyncio.create_task(self._live(caller)) for caller in range(len(self._hosts))]

    async def leave(self) -> None:
        """Raises Failed when the callers' program is gone."""
        assert self._fleet is not None
        self._leaving = True
        for number in self._calls.values():
            self._fleet.hang_up(number)
        await asyncio.gather(*self._tasks)

    async def drop(self) -> None:
        """Whatever happened: nobody calls again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until_all_spoke(self, after: float, within_s: float) -> set[int]:
        """Returns when everybody has heard a reply to its end after that time, or who has not by then."""
        missing = set(range(len(self._hosts)))
        try:
            async with asyncio.timeout(within_s):
                while True:
                    self._news.clear()
                    missing = {caller for caller in missing if self._spoke.get(caller, 0.0) <= after}
                    if not missing:
                        return missing
                    await self._until_news()
        except TimeoutError:
            return missing

    async def _until_news(self) -> None:
        """Or one of them has failed."""
        news = asyncio.create_task(self._news.wait())
        try:
            await asyncio.wait({news, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
        for task in self._tasks:
            if task.done():
                task.result()

    async def _live(self, caller: int) -> None:
        assert self._fleet is not None
        while not self._leaving:
            number = self._fleet.number()
            self._who[number] = caller
            self._calls[caller] = number
            plan = {**self._plan, "host": self._hosts[caller], "seed": self._chance.randrange(1, 2**31)}
            await self._fleet.call(plan, _FOR_EVER_S, number)
            self._calls.pop(caller, None)
            if not self._leaving:
                await asyncio.sleep(self._chance.uniform(*_AGAIN_S))

    def write(self, path: Path) -> None:
        """Everything they said, as CSV: for whoever wants to know more than the table says."""
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("t", "caller", "name", "ms", "ok", "why"))
            for e in self.events:
                rows.writerow((f"{e.t:.4f}", e.caller, e.name, f"{e.ms:.3f}", int(e.ok), e.why))

    def caller_of(self, number: int) -> int | None:
        """Who made the call of that number."""
        return self._who.get(number)


def short_clips(manifest: Path, out: Path) -> Path:
    """A manifest of those that take about a second to say, so that turns follow each other quickly."""
    clips: list[dict[str, Any]] = json.loads(manifest.read_text())
    for clip in clips:
        clip["file"] = str(manifest.parent / clip["file"])
    chosen = [clip for clip in clips if clip["duration_ms"] <= _LONGEST_MS]
    path = out / "clips.json"
    path.write_text(json.dumps(chosen or [min(clips, key=lambda clip: float(clip["duration_ms"]))]))
    return path


def now() -> float:
    """As the callers' events have it."""
    return time.time()
