"""What a run needs beside its callers: the emulated parts, and the gateway."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from load.emulators.distributions import BadProfile, Distribution
from load.emulators.profile import Profile, assignments, read_profile
from load.run.child import Child, Failed

_START_S = 30.0
_READY = aiohttp.ClientTimeout(total=10.0)
_ASK = aiohttp.ClientTimeout(total=2.0)


@dataclass(frozen=True, slots=True)
class Parts:
    child: Child
    asr: str
    llm: str
    triton: str
    control: str


@dataclass(frozen=True, slots=True)
class GatewayUp:
    child: Child
    grpc: str
    admin: str
    settings: dict[str, str]
    """Environment it was given."""


@asynccontextmanager
async def parts_up(
    out: Path, profile: str, changes: Sequence[str], clips: Path | None, seed: int, cores: Collection[int]
) -> AsyncIterator[Parts]:
    """The emulated parts. Raises Failed."""
    command = [sys.executable, "-m", "load.emulators", "--profile", profile, "--seed", str(seed)]
    if clips is not None:
        command += ["--set", f"asr.clips={clips}"]
    for change in changes:
        command += ["--set", change]
    child = Child("the emulated parts", command, log=out / "emulators.log", cores=cores, stop_s=5, talks=True)
    async with child:
        line = await child.line(_START_S)
        try:
            found = json.loads(line)
            parts = Parts(child, found["asr"], found["llm"], found["triton"], found["control"])
        except (ValueError, KeyError):
            raise Failed(f"the emulated parts said {line[:80]!r} instead of their addresses") from None
        yield parts


@asynccontextmanager
async def gateway_up(
    out: Path,
    parts: Parts,
    settings: Sequence[str],
    workers: int,
    cores: Collection[int],
    drain_s: float = 5.0,
) -> AsyncIterator[GatewayUp]:
    """A gateway over the emulated parts, ready. Raises Failed."""
    env = {
        "PARLEY_ASR__URI": parts.asr,
        "PARLEY_LLM__BASE_URL": parts.llm,
        "PARLEY_TTS__URI": parts.triton,
        "PARLEY_SESSION__DRAIN_S": f"{drain_s:g}",
    } | environment(settings)
    command = [
        sys.executable,
        "-m",
        "gateway.cli",
        "serve",
        "gateway",
        "--grpc",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ]
    if workers > 1:
        command += ["--workers", str(workers)]
    log = out / "gateway.log"
    child = Child("the gateway", command, log=log, env=env, cores=cores, stop_s=drain_s + 10, talks=True)
    async with child:
        line = await child.line(_START_S)
        words = line.split()
        if "grpc" not in words or "admin" not in words:
            raise Failed(f"the gateway said {line[:80]!r} instead of its addresses")
        up = GatewayUp(child, words[words.index("grpc") + 1], words[words.index("admin") + 1], env)
        drain = asyncio.create_task(_drain(child))
        try:
            await _check_ready(up.admin)
            yield up
        finally:
            drain.cancel()


async def _drain(child: Child) -> None:
    """Whatever else it says on stdout must not fill the pipe."""
    try:
        while True:
            await child.line(24 * 3600.0)
    except Failed:
        pass


async def _check_ready(admin: str) -> None:
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{admin}/readyz", timeout=_READY) as response,
        ):
            body = await response.json()
            if response.status == 200:
                return
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise Failed(f"the gateway does not answer over HTTP: {error!r}") from None
    wrong = [
        f"{name}: {part.get('error')}" for name, part in body.get("parts", {}).items() if not part.get("ok")
    ]
    raise Failed(f"the gateway is not ready: {'; '.join(wrong) or body}")


def environment(settings: Sequence[str]) -> dict[str, str]:
    """["turn.eager=true"] as PARLEY_* variables."""
    found = {}
    for pair in settings:
        key, _, value = pair.partition("=")
        found["PARLEY_" + key.strip().replace(".", "__").upper()] = value
    return found


async def counted(parts: Parts) -> dict[str, Any] | None:
    """What the emulated parts counted; None when they do not say."""
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{parts.control}/stats", timeout=_ASK) as response,
        ):
            found: dict[str, Any] = await response.json()
            return found
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None


def profile_facts(name: str, changes: Sequence[str]) -> dict[str, Any]:
    """The profile in use as plain JSON, for the run folder. Raises Failed."""
    try:
        profile: Profile = read_profile(name).changed(assignments(changes))
    except BadProfile as error:
        raise Failed(str(error)) from None
    return {part: _plain(getattr(profile, part)) for part in ("asr", "llm", "tts")}


def _plain(part: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Distribution):
            if value.values:
                found[field.name] = {"measured": len(value.values)}
            elif value.lognormal:
                found[field.name] = {"median": value.lognormal[0], "p95": value.lognormal[1]}
            else:
                found[field.name] = value.constant
        else:
            found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


def can_pin(*wanted: Collection[int]) -> bool:
    """Whether this machine has these cores, each of them ours to use."""
    if not hasattr(os, "sched_getaffinity"):
        return False
    ours = os.sched_getaffinity(0)
    return all(wanted) and all(core in ours for cores in wanted for core in cores)
