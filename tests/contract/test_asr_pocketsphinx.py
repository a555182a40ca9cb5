"""What is this recogniser's own: its processes, and that nothing is lost on the way to the engine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.triton.channel import open_channel
from gateway.triton.repository import Repository
from gateway.triton.server import EmbeddedTriton
from tests.contract.client import CHUNK, Client, Recording, Refusal, chunks_of, word_errors

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

NAME = "asr_pocketsphinx"
QUIET = np.zeros(CHUNK, np.float32)


@pytest_asyncio.fixture(loop_scope="session")
async def model(server: EmbeddedTriton, client: Client) -> ModelConfig:
    if NAME in server.failed:
        pytest.skip(server.failed[NAME])
    return await client.config(NAME)


@pytest_asyncio.fixture(loop_scope="session")
async def repository(server: EmbeddedTriton) -> AsyncIterator[Repository]:
    async with open_channel(server.grpc) as channel:
        yield Repository(channel)


def children(pid: int) -> set[int]:
    found: set[int] = set()
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        found |= {int(child) for child in tasks.read_text().split()}
    return found


def forker_and_workers(server: EmbeddedTriton) -> tuple[int, set[int]]:
    (stub,) = server.stub_pids()[NAME]
    (forker,) = children(stub)
    return forker, children(forker)


def exists(pid: int) -> bool:
    """Whether it runs; a zombie only waits for init to look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def gone(pids: set[int]) -> bool:
    for _ in range(500):
        if not any(map(exists, pids)):
            return True
        await asyncio.sleep(0.01)  # a process's end is seen from outside only by looking
    return False


async def test_word_errors_are_the_engines_own(
    client: Client, model: ModelConfig, recordings: dict[str, Recording]
) -> None:
    pocketsphinx = pytest.importorskip("pocketsphinx")
    decoder = pocketsphinx.Decoder(
        samprate=16_000, fwdflat=False, bestpath=True, maxhmmpf=3_000, loglevel="ERROR"
    )
    alone = through = words = 0
    for said in recordings.values():
        reference = said.text.replace("mister", "mr")
        words += len(reference.split())
        alone += word_errors(reference, await asyncio.to_thread(_engine_alone, decoder, said.pcm))
        through += word_errors(reference, (await client.recognize(model, said.pcm))[-1].text)
    assert through <= alone + 2, f"{through} wrong words of {words} through Triton, {alone} without"


def _engine_alone(decoder: Any, pcm: np.ndarray[Any, Any]) -> str:
    noise = np.random.default_rng(0)
    decoder.reinit_feat()
    decoder.start_utt()
    for chunk, _, _ in chunks_of(pcm):
        noisy = chunk + 2e-4 * noise.standard_normal(len(chunk), dtype=np.float32)
        decoder.process_raw((np.clip(noisy, -1, 1) * 32767).astype("<i2").tobytes(), False, False)
    decoder.end_utt()
    found = decoder.hyp()
    return found.hypstr if found else ""


async def test_a_dead_worker_costs_its_utterance_alone(
    client: Client, model: ModelConfig, server: EmbeddedTriton, recordings: dict[str, Recording]
) -> None:
    said = recordings["goforward"]
    async with client.utterance(model) as victim:
        await victim.send(QUIET, start=True)
        _, workers = forker_and_workers(server)
        other = asyncio.create_task(client.recognize(model, said.pcm))
        await asyncio.sleep(0)
        for pid in workers:  # all that exist now: the victim's, and those that wait
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(Refusal, match="must specify the START flag"):
            await victim.send(QUIET)
        with pytest.raises(Refusal, match="must specify the START flag"):
            await victim.send(QUIET)
        assert (await victim.send(QUIET, start=True, end=True)).final, "a new worker took its place"
    await asyncio.wait([other])
    assert (await client.recognize(model, said.pcm))[-1].text == said.text


async def test_a_dead_parent_of_workers_is_replaced(
    client: Client, model: ModelConfig, server: EmbeddedTriton, recordings: dict[str, Recording]
) -> None:
    forker, _ = forker_and_workers(server)
    async with client.utterance(model) as utterance:
        await utterance.send(QUIET, start=True)
        os.kill(forker, signal.SIGKILL)
        assert not (await utterance.send(QUIET)).final, "a worker outlives it"
        assert (await utterance.send(QUIET, end=True)).final
    said = recordings["goforward"]
    heard = await asyncio.gather(*(client.recognize(model, said.pcm) for _ in range(4)))
    assert {answers[-1].text for answers in heard} == {said.text}
    assert forker_and_workers(server)[0] != forker


async def test_too_many_utterances_are_refused_and_an_abandoned_one_makes_room(
    client: Client, model: ModelConfig, repository: Repository
) -> None:
    small = ModelConfig()
    small.CopyFrom(model)
    small.parameters["max_streams"].string_value = "1"
    small.sequence_batching.max_sequence_idle_microseconds = 300_000
    await repository.load(NAME, small)
    try:
        async with client.utterance(model) as left, client.utterance(model) as second:
            await left.send(QUIET, start=True)
            with pytest.raises(Refusal, match="too many concurrent utterances: 1 "):
                await second.send(QUIET, start=True)
            await asyncio.sleep(1.5)  # idle limit and the model's margin: only the clock tells
            assert (await second.send(QUIET, start=True, end=True)).final
    finally:
        await repository.unload(NAME)
        await repository.load(NAME)


async def test_unloading_leaves_no_process(
    client: Client, model: ModelConfig, server: EmbeddedTriton, repository: Repository
) -> None:
    async with client.utterance(model) as utterance:
        await utterance.send(QUIET, start=True)
        forker, workers = forker_and_workers(server)
    await repository.unload(NAME)
    try:
        assert await gone({forker, *workers})
    finally:
        await repository.load(NAME)


async def test_workers_end_with_a_killed_model_process(
    client: Client, model: ModelConfig, server: EmbeddedTriton
) -> None:
    (stub,) = server.stub_pids()[NAME]
    forker, workers = forker_and_workers(server)
    os.kill(stub, signal.SIGKILL)
    assert await gone({forker, *workers})
    for _ in range(200):  # the supervisor loads it again
        await asyncio.sleep(0.05)
        try:
            assert (await client.recognize(model, QUIET))[-1].final
            return
        except Refusal:
            continue
    pytest.fail("the model did not come back")
