"""docs/guides/topologies.md with real processes: fronts of `parley serve speech`, Tritons, and a gateway's clients."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.listen.riva_asr import RivaRecognizer
from gateway.listen.utterance import Utterance
from gateway.settings import AsrSettings, ModelsSettings, TritonSettings, TtsSettings
from gateway.speak.factory import make_synthesizer
from gateway.triton.server import EmbeddedTriton
from tests.support.fronts import until
from tests.support.stack import TEST_MODELS, skip_without_triton

pytestmark = pytest.mark.stack

PIECE = (np.ones(1_600) * 8_000).astype("<i2").tobytes()
PIECES = 40
SERVICE = "nvidia.riva.asr.RivaSpeechRecognition"


@dataclass
class Front:
    riva: str
    process: asyncio.subprocess.Process

    async def end(self) -> int:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 30)


def free() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


@asynccontextmanager
async def triton(logs: Path) -> AsyncIterator[EmbeddedTriton]:
    skip_without_triton()
    server = EmbeddedTriton((TEST_MODELS,), models=("asr_count", "tts_tone"), log_dir=logs, exit_s=2)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def front(of: EmbeddedTriton) -> AsyncIterator[Front]:
    """Ready."""
    riva = free()
    environment = os.environ | {
        "PARLEY_MODELS__ASR": "asr_count",
        "PARLEY_MODELS__TTS": "tts_tone",
        "PARLEY_TRITON__REPOSITORIES": str(TEST_MODELS),
        "PARLEY_SESSION__DRAIN_S": "15",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", "serve", "speech", "--riva", riva, "--http", free(), "--triton", of.grpc,
        env=environment, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    made = Front(riva, process)
    try:
        async with grpc.aio.insecure_channel(riva) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service=SERVICE), wait_for_ready=True, timeout=30
            )
            async for reply in watch:
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    break
        yield made
    finally:
        await made.end()


@dataclass
class Said:
    """An utterance at the pace of speech."""

    asr: RivaRecognizer
    partial: asyncio.Event = field(default_factory=asyncio.Event)
    retries: list[str] = field(default_factory=list)

    async def run(self) -> str:
        utterance = Utterance(
            self.asr,
            AsrSettings(),
            language="en-US",
            on_partial=lambda heard: self.partial.set(),
            on_retry=self.retries.append,
        )
        running = asyncio.create_task(utterance.run())
        for _ in range(PIECES):
            utterance.feed(PIECE)
            await asyncio.sleep(0.05)
        utterance.end()
        final = await utterance.final()
        await running
        return final.text


async def speak(uri: str, sentences: int) -> list[int]:
    """Chunks of each sentence; all at a time, as of so many sessions."""
    settings = TtsSettings(kind="triton", uri=uri)
    voice = make_synthesizer(settings, ModelsSettings(tts="tts_tone"), TritonSettings(), label="a gateway")

    async def one() -> int:
        return len([chunk async for chunk in voice.synthesize("12")])

    try:
        return list(await asyncio.gather(*(one() for _ in range(sentences))))
    finally:
        await voice.close()


async def test_pods_one_of_which_goes_while_it_is_spoken_to(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        tritons = [await stack.enter_async_context(triton(tmp_path / str(n))) for n in range(2)]
        fronts = [await stack.enter_async_context(front(one)) for one in tritons]
        asr = RivaRecognizer(AsrSettings(uri=",".join(one.riva for one in fronts)))
        stack.push_async_callback(asr.close)
        said = [Said(asr) for _ in range(6)]
        tasks = [asyncio.create_task(one.run()) for one in said]
        for one in said:
            await one.partial.wait()
        assert [server.users for server in asr._fronts.servers] == [3, 3]
        assert await speak(",".join(one.grpc for one in tritons), 4) == [12] * 4
        gone, stays = asr._fronts.servers
        fronts[0].process.send_signal(signal.SIGTERM)
        await until(asr._fronts, lambda: not gone.takes_calls)
        late = [Said(asr) for _ in range(2)]
        more = [asyncio.create_task(one.run()) for one in late]
        for one in late:
            await one.partial.wait()
        assert gone.users <= 3
        assert stays.users >= 2
        finals = await asyncio.gather(*tasks, *more)
        assert all(finals)
        assert len(set(finals)) == 1, finals
        assert not any(one.retries for one in (*said, *late))
        assert await fronts[0].end() == 0
        drain = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.cli", "drain", "triton", "--triton", tritons[0].grpc,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(drain.communicate(), 30)
        assert b"can be stopped" in out


async def test_several_fronts_over_one_triton(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        only = await stack.enter_async_context(triton(tmp_path))
        fronts = [await stack.enter_async_context(front(only)) for _ in range(2)]
        asr = RivaRecognizer(AsrSettings(uri=",".join(one.riva for one in fronts)))
        stack.push_async_callback(asr.close)
        said = [Said(asr) for _ in range(4)]
        tasks = [asyncio.create_task(one.run()) for one in said]
        for one in said:
            await one.partial.wait()
        assert [server.users for server in asr._fronts.servers] == [2, 2]
        assert len(set(await asyncio.gather(*tasks))) == 1
        # The Triton is drained: both say that they take no new calls, and so nobody does.
        drain = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.cli", "drain", "triton", "--triton", only.grpc,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(drain.communicate(), 40)
        assert b"can be stopped" in out
        await until(asr._fronts, lambda: all(server.resting for server in asr._fronts.servers))
