"""What this service is and has: for whoever chooses among several."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gateway import __version__
from gateway.protocol import tts_pb2 as pb
from gateway.protocol import voice_pb2
from gateway.riva.tts_api.models import is_resident, model
from gateway.riva.tts_api.ports import GpuMemory, Gpus
from gateway.riva.tts_api.sound import FRAME_MS, RATE
from gateway.triton.manager.types import Manager

_MIB = 1 << 20
_METRICS_S = 1.0
_MOST_BYTES = 4 << 20
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


async def no_gpus() -> list[GpuMemory]:
    return []


@dataclass(frozen=True, slots=True)
class About:
    """Of this process."""

    name: str
    address: str
    gpus: Gpus = no_gpus


async def capabilities(
    manager: Manager, about: About, *, rtf: float, queue_depth: int, sessions: int, max_sessions: int
) -> pb.Capabilities:
    """Raises TritonError when the manager cannot look."""
    statuses, gpus = await asyncio.gather(manager.status(), about.gpus())
    return pb.Capabilities(
        name=about.name,
        address=about.address,
        version=__version__,
        audio=[voice_pb2.AudioFormat(encoding=voice_pb2.PCM16, sample_rate=RATE)],
        frame_ms=FRAME_MS,
        hardware=pb.Hardware(
            cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
            memory_mb=_memory_bytes() // _MIB,
            gpus=[pb.Gpu(name=gpu.name, memory_mb=gpu.memory_mb, memory_used_mb=gpu.used_mb) for gpu in gpus],
        ),
        resident=[model(status) for status in statuses if is_resident(status)],
        rtf=rtf,
        queue_depth=queue_depth,
        sessions=sessions,
        max_sessions=max_sessions,
        commands=[name for name, value in pb.TtsCommand.items() if value],
    )


def gpus_from_metrics(address: str) -> Gpus:
    """Reads Triton's metrics at host:port; an empty list when they cannot be read."""

    async def look() -> list[GpuMemory]:
        if not address:
            return []
        try:
            timeout = aiohttp.ClientTimeout(total=_METRICS_S)
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.get(f"http://{address}/metrics") as answer,
            ):
                page = await answer.content.read(_MOST_BYTES)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return []
        return gpus_in(page.decode("utf-8", "replace"))

    return look


def gpus_in(page: str) -> list[GpuMemory]:
    """From nv_gpu_memory_total_bytes and nv_gpu_memory_used_bytes; GPUs are named by their id."""
    found: dict[str, dict[str, float]] = {}
    for line in page.splitlines():
        for kind in ("total", "used"):
            start = f'nv_gpu_memory_{kind}_bytes{{gpu_uuid="'
            if line.startswith(start):
                name, _, value = line.removeprefix(start).partition('"}')
                found.setdefault(name, {})[kind] = float(value)
    return [
        GpuMemory(name, int(values.get("total", 0)) // _MIB, int(values.get("used", 0)) // _MIB)
        for name, values in sorted(found.items())
    ]


def _memory_bytes() -> int:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):
        return machine
