"""Memory of the server, its model processes, shared memory and the services, over the cycles."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from load.run import usage
from load.soak.models.house import House
from load.soak.models.work import Done

_LOOK_S = 1.0
_SHM = Path("/dev/shm")


@dataclass(slots=True)
class Memory:
    """Rows of (cycles done, MB) by what is looked at."""

    house: House
    rows: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    async def track(self, done: Done) -> None:
        """Until cancelled."""
        while True:
            for what, mb in (await asyncio.to_thread(self._look)).items():
                self.rows.setdefault(what, []).append((done.cycles, mb))
            await asyncio.sleep(_LOOK_S)

    def _look(self) -> dict[str, float]:
        triton, asr_tts = self.house.triton, self.house.kind.models
        pid = triton.pid
        stubs = {one for model in asr_tts for one in triton.stub_pids().get(model, [])}
        trees = usage.trees([*stubs, self.house.speech.pid, self.house.gateway.child.pid])
        mapped = _shared_files([pid, *(one for pids in triton.stub_pids().values() for one in pids)])
        return {
            "tritonserver": usage.rss_mb([pid]),
            "model processes of the calls": usage.rss_mb({p for stub in stubs for p in trees[stub]}),
            "shared memory": _shared_mb(mapped),
            "speech service": usage.rss_mb(trees[self.house.speech.pid]),
            "gateway": usage.rss_mb(trees[self.house.gateway.child.pid]),
        }


def _shared_files(pids: Iterable[int]) -> set[str]:
    """What this Triton's processes have mapped of shared memory."""
    found = set()
    for pid in pids:
        try:
            maps = Path(f"/proc/{pid}/maps").read_text()
        except OSError:
            continue
        found |= {line.split()[5] for line in maps.splitlines() if f"{_SHM}/" in line}
    return found


def _shared_mb(files: Iterable[str]) -> float:
    total = 0
    for file in files:
        try:
            total += os.stat(file).st_blocks * 512
        except OSError:
            continue
    return total / 1e6
