"""What goes wrong: every kind of fault, how often, and how it is done."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from load.run.child import Failed

OUTAGE_S = 1.5
"""How long a port is closed, or a line stands still."""
_REQUESTS = 4
"""How many requests a fault of a part's own strikes."""
_UNUSED_S = 6.0
"""A fault that has not struck so many requests by then is withdrawn."""
_LOOK_S = 0.1
_CLIENTS_HIT = 4
_ANSWER = aiohttp.ClientTimeout(total=10.0)


@dataclass(frozen=True, slots=True)
class Kind:
    part: str
    """Whose fault it is, as the table says it."""
    text: str
    times: int
    """In the long form."""
    where: str
    """"requests" and "port" of an emulated part, its "line", "worker", or "clients"."""
    of: str = ""
    """asr, llm or tts, where it is about one."""
    order: Mapping[str, Any] = field(default_factory=dict)
    lasts_s: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.part}: {self.text}"


def _of_part(part: str, of: str, cuts: int, times: int, *, host: str = "") -> list[Kind]:
    """cuts: how often its connections are cut, and its port closed. host: who serves the port."""
    standing = {"kind": "half_open", "for_s": OUTAGE_S}
    return [
        Kind(host or part, "every connection is reset", cuts, "port", of, {"cut": True}),
        Kind(
            host or part, f"restarted, its port closed for {OUTAGE_S:g} s", cuts, "port", of,
            {"down_s": OUTAGE_S}, OUTAGE_S,
        ),
        Kind(part, f"{_REQUESTS} requests die in mid-stream", times, "requests", of, {"kind": "die", "after": 2}),
        Kind(part, f"{_REQUESTS} requests stall in mid-stream", times, "requests", of, {"kind": "stall", "after": 2}),
        Kind(part, f"{_REQUESTS} requests are answered with garbage", times, "requests", of, {"kind": "garbage"}),
        Kind(part, f"the line stands still for {OUTAGE_S:g} s", times, "line", of, standing, OUTAGE_S),
        Kind(
            part, "its side of the line is closed, ours 0.5 s later", times, "line", of,
            {"kind": "slow_close", "after_s": 0.5}, 0.5,
        ),
    ]  # fmt: skip


KINDS: tuple[Kind, ...] = (
    *_of_part("ASR", "asr", 5, 3),
    *_of_part("LLM", "llm", 5, 3),
    Kind("LLM", f"{_REQUESTS} requests are refused", 3, "requests", "llm", {"kind": "refuse"}),
    *_of_part("TTS", "tts", 6, 3, host="Triton"),
    Kind("gateway", "a worker is killed", 8, "worker"),
    Kind("client", f"{_CLIENTS_HIT} lines are reset", 4, "clients", "", {"kind": "reset"}),
    Kind(
        "client", f"{_CLIENTS_HIT} lines stand still for {OUTAGE_S:g} s", 4, "clients", "",
        {"kind": "half_open", "for_s": OUTAGE_S}, OUTAGE_S,
    ),
    Kind(
        "client", f"{_CLIENTS_HIT} lines: the gateway's side is closed, the client's 0.5 s later", 4, "clients", "",
        {"kind": "slow_close", "after_s": 0.5}, 0.5,
    ),
)  # fmt: skip


def programme(count: int, chance: random.Random) -> list[Kind]:
    """`count` faults in random order, each kind in proportion to its times; with few, some of every part."""
    whole = [kind for kind in KINDS for _ in range(kind.times)]
    if count < len(KINDS):
        place = {kind.name: [k for k in KINDS if k.part == kind.part].index(kind) for kind in KINDS}
        found = sorted(KINDS, key=lambda kind: place[kind.name])[:count]
    else:
        found = list(KINDS)
        rest = list(whole)
        for kind in KINDS:
            rest.remove(kind)
        while len(found) < count:
            chance.shuffle(rest)
            found += rest[: count - len(found)]
    chance.shuffle(found)
    return found


@dataclass(slots=True)
class Blow:
    """A fault that was done."""

    kind: str
    part: str
    at: float
    """UNIX seconds."""
    over: float
    """UNIX seconds; from then on nothing is wrong any more."""
    hit: list[int] = field(default_factory=list)
    """Callers whose own line it was."""
    lost: int = -1
    """Sessions that its process had; −1: no process was killed."""


class Stage:
    """Where faults are done."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        parts: str,
        network: str,
        gateway_pid: int,
        callers: int,
        seed: int,
    ) -> None:
        """parts, network: base URLs of the controls of the emulated parts, and of the proxies."""
        self._session = session
        self._parts, self._network = parts, network
        self._gateway, self._callers = gateway_pid, callers
        self._chance = random.Random(seed)

    async def strike(self, kind: Kind, sessions_of: Mapping[int, int]) -> Blow:
        """Returns when it is over. sessions_of: how many each worker has. Raises Failed."""
        blow = Blow(kind.name, kind.part, time.time(), 0.0)
        match kind.where:
            case "requests":
                await self._requests(kind)
            case "port" if "cut" in kind.order:
                await self.order(f"{self._parts}/cut", {"part": kind.of})
            case "port":
                await self.order(f"{self._parts}/restart", {"part": kind.of, **kind.order})
            case "line":
                await self.order(f"{self._network}/proxies/{kind.of}/fault", kind.order)
            case "clients":
                blow.hit = sorted(
                    self._chance.sample(range(self._callers), min(_CLIENTS_HIT, self._callers // 2))
                )
                for caller in blow.hit:
                    await self.order(f"{self._network}/proxies/caller-{caller}/fault", kind.order)
            case _:
                number, pid = self._chance.choice(sorted(workers_of(self._gateway).items()))
                blow.lost = sessions_of.get(number, 0)
                blow.at = time.time()
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(max(0.0, blow.at + kind.lasts_s - time.time()))
        blow.over = time.time()
        return blow

    async def _requests(self, kind: Kind) -> None:
        """Until so many requests were struck."""
        before = await self._struck(kind.of)
        await self.order(f"{self._parts}/fault", {"part": kind.of, "count": _REQUESTS, **kind.order})
        end = time.time() + _UNUSED_S
        while await self._struck(kind.of) < before + _REQUESTS and time.time() < end:  # noqa: ASYNC110 - another process counts
            await asyncio.sleep(_LOOK_S)
        async with self._session.delete(f"{self._parts}/fault", timeout=_ANSWER):
            pass

    async def _struck(self, part: str) -> int:
        return int((await self.stats())[part]["faults"])

    async def stats(self) -> dict[str, dict[str, Any]]:
        async with self._session.get(f"{self._parts}/stats", timeout=_ANSWER) as answer:
            found: dict[str, dict[str, Any]] = await answer.json()
            return found

    async def order(self, url: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Raises Failed with what the control says."""
        async with self._session.post(url, json=dict(body), timeout=_ANSWER) as answer:
            found: dict[str, Any] = await answer.json()
            if answer.status != 200:
                raise Failed(f"{url} refused: {found.get('error')}")
            return found


def workers_of(gateway: int) -> dict[int, int]:
    """Process ids of the gateway's workers by their numbers. Raises Failed when it has none."""
    found = {}
    for pid in _children(gateway):
        try:
            words: Sequence[bytes] = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--worker" in words:
            found[int(words[words.index(b"--worker") + 1])] = pid
    if not found:
        raise Failed("the gateway has no workers to be killed")
    return found


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found
