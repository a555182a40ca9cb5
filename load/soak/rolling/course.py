"""A stack of two gateways and two speech services with a Triton each, either pair behind one address, and how one of
them is replaced."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from gateway.triton.server import EmbeddedTriton
from load.run.child import ROOT, Child, Failed
from load.soak.models.house import put_model
from load.soak.rolling.counting import serve_counting
from load.soak.rolling.service import Service

_START_S = 60.0
_MODELS = ROOT / "tests" / "data" / "models"
MODELS = ("asr_light", "tts_light")
GRACE_S = 8.0
"""Longer than any reply."""


@dataclass(slots=True)
class Replica:
    child: Child
    address: str
    admin: str
    triton: EmbeddedTriton | None = None
    """In the same pod: it comes and goes with it."""


@dataclass(slots=True)
class Part:
    """Replicas behind one address."""

    name: str
    options: tuple[str, ...]
    """Of `parley serve`."""
    keys: tuple[str, str]
    """Under which it says its address and that for operators."""
    env: Mapping[str, str]
    out: Path
    repository: Path | None = None
    """Of a Triton for each."""
    service: Service = field(default_factory=Service)
    replicas: list[Replica] = field(default_factory=list)
    address: str = ""
    made: int = 0

    async def start_one(self) -> Replica:
        """Ready, and then among those who get connections. Raises Failed."""
        self.made += 1
        name = f"{self.name}-{self.made}"
        triton = None
        command = [sys.executable, "-m", "gateway.cli", "serve", self.name, *self.options]
        if self.repository is not None:
            logs = self.out / f"triton-{self.made}"
            logs.mkdir()
            triton = EmbeddedTriton([self.repository], models=MODELS, log_dir=logs)
            await triton.start()
            command += ["--triton", triton.grpc]
        child = Child(
            name, command, log=self.out / f"{name}.log", env=self.env, stop_s=GRACE_S + 10, talks=True
        )
        try:
            await child.__aenter__()
            words = (await child.line(_START_S)).split()
            address, admin = (words[words.index(key) + 1] for key in self.keys)
            await _until_ready(admin)
        except BaseException as error:
            await child.stop()
            if triton is not None:
                await triton.stop()
            if isinstance(error, ValueError):
                raise Failed(f"{name} did not say its addresses") from None
            raise
        replica = Replica(child, address, admin, triton)
        self.replicas.append(replica)
        self.service.add(address)
        return replica

    async def replace_one(self, replica: Replica) -> tuple[str, float]:
        """As a Deployment does it: the new one first; then the old one gets no connections, the hooks of its containers
        are run, at once, and all of it is ended.

        Returns what was left when the signal came, and how long the drain took, s. Raises Failed.
        """
        await self.start_one()
        self.service.remove(replica.address)
        began = time.monotonic()
        async with asyncio.TaskGroup() as hooks:
            asked = hooks.create_task(_drain(replica.admin))
            if replica.triton is not None:
                hooks.create_task(_drain_triton(replica.triton.grpc))
        took_s = time.monotonic() - began
        self.replicas.remove(replica)
        try:
            await replica.child.stop()
        finally:
            if replica.triton is not None:
                await replica.triton.stop()
        if replica.child.code != 0:
            raise Failed(f"{replica.child.name} ended with {replica.child.code}")
        return asked.result(), took_s

    async def close(self) -> None:
        await self.service.close()
        await asyncio.gather(*(replica.child.stop() for replica in self.replicas))
        await asyncio.gather(*(one.triton.stop() for one in self.replicas if one.triton is not None))


@dataclass(frozen=True, slots=True)
class Stack:
    gateways: Part
    speech: Part


@asynccontextmanager
async def stack_up(out: Path, settings: Mapping[str, str]) -> AsyncIterator[Stack]:
    """settings: PARLEY_* of the gateways. Raises Failed."""
    async with AsyncExitStack() as stack:
        repository = out / "repository"
        for name in MODELS:
            put_model(_MODELS / name, repository / name)
        runner, llm = await serve_counting()
        stack.push_async_callback(runner.cleanup)
        common = {
            "PARLEY_SESSION__DRAIN_S": f"{GRACE_S:g}",
            "PARLEY_AUTH__SEALING_KEY": "known to all replicas of this soak alone",
            "PARLEY_MODELS__ASR": "asr_light",
            "PARLEY_MODELS__TTS": "tts_light",
            "PARLEY_TRITON__REPOSITORIES": str(repository),
        }
        speech = Part(
            "speech",
            ("--riva", "127.0.0.1:0", "--http", "127.0.0.1:0"),
            ("riva", "speech_http"),
            common,
            out,
            repository,
        )
        stack.push_async_callback(speech.close)
        speech.address = await speech.service.open()
        env = common | {
            "PARLEY_ASR__URI": speech.address,
            "PARLEY_TTS__KIND": "riva",
            "PARLEY_TTS__URI": speech.address,
            "PARLEY_LLM__BASE_URL": llm,
            "PARLEY_LLM__HISTORY_TURNS": "1000",
        }
        gateways = Part(
            "gateway",
            ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"),
            ("grpc", "admin"),
            env | dict(settings),
            out,
        )
        stack.push_async_callback(gateways.close)
        gateways.address = await gateways.service.open()
        for part in (speech, gateways):
            for _ in range(2):
                await part.start_one()
        yield Stack(gateways, speech)


async def _until_ready(admin: str) -> None:
    """Raises Failed."""
    try:
        async with asyncio.timeout(_START_S), aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"{admin}/readyz") as answer:
                    if answer.status == 200:
                        return
                await asyncio.sleep(0.2)  # as a kubelet asks
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Failed(f"{admin} was not ready: {error!r}") from None


async def _drain(admin: str) -> str:
    """As the preStop hook does. Raises Failed."""
    try:
        async with (
            asyncio.timeout(GRACE_S + 15),
            aiohttp.ClientSession() as session,
            session.post(f"{admin}/drain?wait_s={GRACE_S + 5:g}") as answer,
        ):
            body = await answer.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Failed(f"{admin} did not drain: {error!r}") from None
    return f"{body['status']}, {body['left']} left"


async def _drain_triton(address: str) -> None:
    """Raises Failed."""
    hook = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", "drain", "triton", "--triton", address, "--timeout", f"{GRACE_S + 5:g}",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=ROOT,
    )  # fmt: skip
    said, _ = await hook.communicate()
    if hook.returncode != 0:
        raise Failed(f"the Triton at {address} was not drained: {said.decode().strip()}")
