"""An exported model on a real Triton, through a session's contract: CPU of server and model, latencies, memory."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.export_plan import CHUNK, SENTENCE, SHORT, Plan
from gateway.triton.channel import GRPCInferenceServiceStub, open_channel
from gateway.triton.codec import text
from gateway.triton.infer import SequenceCall, stream_decoupled
from gateway.triton.model_info import read_config
from gateway.triton.repository import Repository
from gateway.triton.server import EmbeddedTriton
from gateway.triton.stream import Drains
from load.run.usage import CpuMeter, rss_mb
from tests.support.codec_llm import CodecLlm

RATE = 16_000
WAIT_S = 120.0
SIGN_S = 0.055
"""Speech of a character, for an LLM that is a stand-in."""


@dataclass(slots=True)
class Served:
    """One model on a server of its own."""

    triton: EmbeddedTriton
    name: str
    stub: GRPCInferenceServiceStub
    drains: Drains
    meter: CpuMeter

    def pids(self) -> list[int]:
        return [self.triton.pid, *self.model_pids()]

    def model_pids(self) -> list[int]:
        return self.triton.stub_pids().get(self.name, [])

    def cpu_s(self) -> float:
        return self.meter.look(self.pids())

    async def quiet(self) -> None:
        """Until nothing is made any more that nobody listens to."""
        await self.drains.close()
        async for _ in self.speak(SHORT):
            pass  # the engine is free of the others now

    async def speak(self, words: str) -> AsyncGenerator[int, None]:
        """Samples of each chunk."""
        answers = stream_decoupled(
            self.stub, self.name, {"TEXT": text(words)},
            drains=self.drains, first_deadline_s=WAIT_S, next_deadline_s=WAIT_S,
        )  # fmt: skip
        try:
            async for answer in answers:
                yield answer["AUDIO"].size
        finally:
            await answers.aclose()


async def measure(model: Path, work: Path, plan: Plan) -> dict[str, Any]:
    """model: …/NAME with its graphs beside it. Raises: TritonError."""
    async with _served(model) as served:
        if model.name.startswith("asr_"):
            with np.load(work, allow_pickle=False) as told:
                found = await _recogniser(served, told["audio"], plan)
        else:
            rate = int(read_config(model).parameters["sample_rate"].string_value)
            found = await _voice(served, rate, plan)
        return found | {
            "rss_mb": rss_mb(served.model_pids()),
            "server_mb": rss_mb([served.triton.pid]),
        }


@asynccontextmanager
async def _served(model: Path) -> AsyncIterator[Served]:
    config = read_config(model)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-bench-"))
        front = json.loads((model / "1" / "front.json").read_text("utf-8"))
        if front["kind"] == "codec":
            frame_s = int(front["samples"]) / int(front["rate"])
            tokens = front["tokens"]
            llm = stack.enter_context(
                CodecLlm(
                    len(tokens["order"]), int(tokens["codebook_size"]), lambda said: _frames(said, frame_s)
                )
            )
            config.parameters["llm"].string_value = llm.url
        triton = await stack.enter_async_context(
            EmbeddedTriton([model.parent], log_dir=Path(folder), exit_s=2, on_event=lambda _: None)
        )
        channel = await stack.enter_async_context(open_channel(triton.grpc))
        await Repository(channel).load(model.name, config, deadline_s=WAIT_S)
        drains = Drains(deadline_s=WAIT_S)
        stack.push_async_callback(drains.close)
        served = Served(triton, model.name, GRPCInferenceServiceStub(channel), drains, CpuMeter())
        served.cpu_s()
        yield served


def _frames(prompt: str, frame_s: float) -> int:
    said = prompt.split(": ", 1)[-1].split("<|eot_id|>")[0]
    return max(2, round(len(said) * SIGN_S / frame_s))


async def _recogniser(served: Served, audios: NDArray[np.float32], plan: Plan) -> dict[str, Any]:
    await _listen(served, audios[0], pace=0.0)
    levels = []
    for sessions in plan.sessions:
        before = served.cpu_s()
        heard = await asyncio.gather(
            *(
                _listen(served, audios[n % len(audios)], wait_s=n * CHUNK / RATE / sessions)
                for n in range(sessions)
            )
        )
        audio_s = sum(len(audios[n % len(audios)]) for n in range(sessions)) / RATE
        levels.append(
            {
                "sessions": sessions,
                "cpu_s": served.cpu_s() - before,
                "audio_s": audio_s,
                "partial_ms": [ms for partial, _ in heard for ms in partial],
                "final_ms": [final for _, final in heard],
            }
        )
    return {"levels": levels}


async def _listen(
    served: Served, audio: NDArray[np.float32], *, wait_s: float = 0.0, pace: float = 1.0
) -> tuple[list[float], float]:
    """How long each chunk's answer took, and that of the last one, in ms. pace 1: in real time; 0: at once."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(wait_s)
    began, partial_ms, final_ms = loop.time(), [], 0.0
    call = SequenceCall(served.stub, served.name, drains=served.drains, decoupled=True)
    try:
        for at in range(0, len(audio), CHUNK):
            chunk, last = audio[at : at + CHUNK], at + CHUNK >= len(audio)
            # Spoken before it is sent: a session that has fallen behind sends at once.
            await asyncio.sleep(began + pace * (at + len(chunk)) / RATE - loop.time())
            asked = time.perf_counter()
            await call.infer(chunk, start=at == 0, end=last, deadline_s=WAIT_S)
            took = (time.perf_counter() - asked) * 1_000
            if last:
                final_ms = took
            else:
                partial_ms.append(took)
    finally:
        call.give_up()
    return partial_ms, final_ms


async def _voice(served: Served, rate: int, plan: Plan) -> dict[str, Any]:
    async for _ in served.speak(SHORT):
        pass
    before, samples = served.cpu_s(), 0
    for _ in range(plan.sentences):
        async for count in served.speak(SENTENCE):
            samples += count
    cost = {"cpu_s": served.cpu_s() - before, "audio_s": samples / rate}
    alone = []
    for _ in range(plan.alone):
        alone.append(await _first(served))
        await served.quiet()
    crowds = {}
    for size in plan.crowds:
        crowds[str(size)] = sorted(await asyncio.gather(*(_first(served) for _ in range(size))))
        await served.quiet()
    return cost | {"alone_ms": alone, "crowds_ms": crowds}


async def _first(served: Served) -> float:
    """Until the first audio of a sentence, in ms; then nobody listens any more."""
    asked = time.perf_counter()
    answers = served.speak(SHORT)
    try:
        async for count in answers:
            if count:
                return (time.perf_counter() - asked) * 1_000
    finally:
        await answers.aclose()
    return float("inf")
