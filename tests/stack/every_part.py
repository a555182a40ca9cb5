"""All of Parley as processes over a real Triton, with everything on that makes a series: certificates, keys, traces."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc.aio
import numpy as np
import trustme

from gateway.protocol import voice_pb2 as pb
from gateway.settings import ClientTls
from gateway.tls.client import ClientSecurity
from load.clips import ensure_clips
from tests.support.caller import Caller
from tests.support.certificates import Folder, server_leaf
from tests.support.collector import Collector, collecting
from tests.support.faulty_llm import FaultyLlm
from tests.support.plain_triton import plain_triton
from tests.support.scrapes import Scrapes
from tests.support.stack import TEST_MODELS, skip_without_triton
from tests.unit.listen.sound import Float, hiss

KEY = "pk_a-key-of-this-test-alone-0123456789"
RATE = 16_000
NOBODY = "127.0.0.1:1"
BROKEN = """
class TritonPythonModel:
    def initialize(self, args):
        raise RuntimeError("not today")

    def execute(self, requests):
        return []
"""


@dataclass
class World:
    grpc: str
    riva: str
    parent: int
    folder: Path
    """Logs, and what the processes need."""
    models: Path
    security: ClientSecurity
    llm: FaultyLlm
    collector: Collector
    pages: Scrapes

    def call(self, **more: object) -> Caller:
        return Caller(self.grpc, security=self.security, api_key=KEY, **more)  # type: ignore[arg-type]

    async def until(self, name: str, **labels: str) -> None:
        await self.pages.until(
            f"{name} {labels or ''}",
            lambda: self.pages.moved(name, lambda has: labels.items() <= has.items()),
        )


@asynccontextmanager
async def serving(
    *command: str, log: Path, **environment: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, str]]]:
    """The process, and where it listens."""
    with log.open("wb") as out:
        one = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.cli", "serve", *command,
            stdout=asyncio.subprocess.PIPE, stderr=out, env=os.environ | environment,
        )  # fmt: skip
    try:
        assert one.stdout is not None
        async with asyncio.timeout(60):
            line = (await one.stdout.readline()).decode()
        assert "is ready:" in line, await asyncio.to_thread(log.read_text)
        yield one, dict(re.findall(r"(\w+) (\S+)", line.partition("is ready:")[2]))
    finally:
        if one.returncode is None:
            one.terminate()
        async with asyncio.timeout(30):
            await one.wait()


def model(folder: Path, source: str, name: str) -> None:
    shutil.copytree(TEST_MODELS / source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    config = folder / name / "config.pbtxt"
    config.write_text(config.read_text().replace(f'name: "{source}"', f'name: "{name}"'))


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    skip_without_triton()
    models = folder / "models"
    model(models, "asr_light", "asr_light")
    for name in ("tts_light", "tts_spare", "tts_other", "tts_broken"):
        model(models, "tts_light", name)
    (models / "tts_broken" / "1" / "model.py").write_text(BROKEN)
    (folder / "triton").mkdir()
    ca, files = trustme.CA(), Folder(folder / "tls")
    files.put(server_leaf(ca), ca)
    async with AsyncExitStack() as open_:
        collector = open_.enter_context(collecting())
        llm = await open_.enter_async_context(FaultyLlm("ok", words=()))
        triton = open_.enter_context(plain_triton(folder / "triton", models, "--log-verbose=1"))
        shared = {
            "PARLEY_TRITON__REPOSITORIES": str(models),
            "PARLEY_MODELS__ASR": "asr_light",
            "PARLEY_MODELS__TTS": "tts_light",
            "PARLEY_MODELS__MAX_RESIDENT": "3",
            "PARLEY_MODELS__MIN_RESIDENCY_S": "0",
            "PARLEY_MODELS__BACKOFF_S": "0.1",
            "PARLEY_TELEMETRY__OTLP": collector.url,
            "PARLEY_TELEMETRY__STALL_MS": "100",
            "PARLEY_SESSION__DRAIN_S": "0.5",
        }
        _, speech = await open_.enter_async_context(
            serving(
                "speech", "--riva", "127.0.0.1:0", "--http", "127.0.0.1:0", "--triton", triton,
                log=folder / "speech.log", **shared,
            )
        )  # fmt: skip
        gateway_process, gateway = await open_.enter_async_context(
            serving(
                "gateway", "--workers", "2",
                "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0",
                log=folder / "gateway.log",
                **shared,
                PARLEY_ASR__URI=speech["riva"],
                PARLEY_TTS__URI=triton,
                PARLEY_LLM__BASE_URL=llm.base_url,
                PARLEY_LLM__RETRIES="0",
                PARLEY_BREAKER__FAILURES="2",
                PARLEY_SESSION__MAX_SESSIONS="4",
                PARLEY_SESSION__OUTBOX_MS="300",
                PARLEY_SESSION__SLOW_CLIENT_S="1",
                PARLEY_TELEMETRY__SLOW_TURN_MS="1",
                PARLEY_AUTH__API_KEYS=json.dumps([KEY]),
                PARLEY_AUTH__JWT_ISSUER=f"http://{NOBODY}",
                PARLEY_AUTH__OPEN_METRICS="true",
                PARLEY_REDIS__URL=f"redis://{NOBODY}/0",
                PARLEY_TLS__CERT=str(files.cert),
                PARLEY_TLS__KEY=str(files.key),
            )
        )  # fmt: skip
        pages = Scrapes(
            {"gateway": f"{gateway['admin']}/metrics", "speech": f"{speech['speech_http']}/metrics"}
        )
        await pages.look()
        security = ClientSecurity(ClientTls(ca=files.ca), "the gateway")
        yield World(
            gateway["grpc"], speech["riva"], gateway_process.pid, folder, models, security, llm,
            collector, pages,
        )  # fmt: skip


def speech(longest_ms: int = 3_500) -> bytes:
    """A person's, or a synthetic voice's where no recordings are at hand; PCM16 at RATE, with silence that ends a turn."""
    manifest = ensure_clips()
    clip = next(c for c in json.loads(manifest.read_text()) if 1_500 < c["duration_ms"] <= longest_ms)
    return Path(manifest.parent, clip["file"]).read_bytes() + quiet(1.2)


def quiet(seconds: float) -> bytes:
    return to_int16(hiss(round(seconds * RATE), -75))


def to_int16(sound: Float) -> bytes:
    return bytes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())


@asynccontextmanager
async def deaf(w: World) -> AsyncIterator[None]:
    """A client that asks for a long reply and never reads, over a connection that holds little."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 16_384),
    ]
    async with grpc.aio.secure_channel(w.grpc, w.security.credentials(), options) as channel:
        call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream("/parley.v1.Voice/Converse")(
            metadata=(("authorization", f"Bearer {KEY}"),)
        )
        start = pb.Start(output=pb.AudioFormat(sample_rate=48_000))
        for message in (
            pb.ClientMessage(start=start),
            pb.ClientMessage(text=pb.Text(text="tone 500 for 60000")),
        ):
            await call.write(message.SerializeToString())
        yield
        call.cancel()


def keeping(w: World, token: bytes) -> Caller:
    """A client that resumes with the token; without one, it wants to be able to."""
    caller = w.call()
    caller.client.hello = caller.hello = replace(caller.hello, resume=token)
    return caller
