"""Long work beside short work on models that burn CPU: who is served next, in counts of chunks."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from gateway.triton.admission import Admission
from gateway.triton.channel import GRPCInferenceServiceStub, open_channel
from gateway.triton.codec import text
from gateway.triton.errors import ModelFull
from gateway.triton.infer import SequenceCall, stream_decoupled
from gateway.triton.model_info import model_info, read_config
from gateway.triton.repository import Repository
from gateway.triton.stream import Drains
from tests.contract.client import CHUNK, Client, Refusal, Spoken
from tests.support.stack import TEST_MODELS, Stack, shared_stack

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

stack = shared_stack(repository=TEST_MODELS, scope="module")
LOUD = (0.3 * np.sin(np.arange(CHUNK) * 0.2)).astype(np.float32)
LONG = "tone 600 for 60000"
BREAKS_AT_600 = """

class Breaks(SpeechModel):
    def _deliver(self, stream, chunk, last):
        if stream.sent == 3 and "600" in stream.request.text:
            raise MemoryError("no memory is left")
        super()._deliver(stream, chunk, last)


SpeechModel = Breaks
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(stack: Stack) -> AsyncIterator[Client]:
    made = Client(stack.triton.grpc, f"{stack.triton.metrics}/metrics")
    yield made
    await made.close()


async def load(
    stack: Stack, name: str, *, candidates: int = 0, idle_s: float = 0.0, **parameters: str
) -> Any:
    """The model with another config than the one in its folder."""
    config = read_config(TEST_MODELS / name)
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    if candidates:
        config.sequence_batching.oldest.max_candidate_sequences = candidates
    if idle_s:
        config.sequence_batching.max_sequence_idle_microseconds = int(idle_s * 1e6)
    async with open_channel(stack.triton.grpc) as channel:
        repository = Repository(channel)
        await repository.unload(name)
        await repository.load(name, config)
    return config


async def counted(client: Client, name: str, model: str) -> float:
    """What the model has counted so far; its counts outlive it."""
    try:
        return await client.metric(name, model=model)
    except KeyError:
        return 0.0


async def test_a_first_chunk_does_not_wait_for_a_long_text(stack: Stack, client: Client) -> None:
    config = await load(stack, "tts_light", cpu_ms="16", pace="1000")  # its minute of speech: 6 s of work
    heard, begun = 0, asyncio.Event()
    async with client.speak(config, LONG) as long:

        async def count() -> None:
            nonlocal heard
            while await long.next() is not None:
                heard += 1
                if heard == 10:
                    begun.set()

        counting = asyncio.create_task(count())
        await begun.wait()
        before = heard
        async with client.speak(config, "tone 900 for 400") as short:
            assert await short.next() is not None
            assert heard - before <= 3, "chunks of the long text while a first chunk was waited for"
            parts = [part async for part in short]
        assert parts[-1].final
        assert heard - before < 30, "a short text is done long before a long one"
        await long.cancel()
        await counting


async def test_first_chunks_come_in_the_order_of_their_requests(stack: Stack, client: Client) -> None:
    config = await load(stack, "tts_light", cpu_ms="16", pace="1000")
    order: list[int] = []

    async def one(number: int) -> int:
        parts: list[Spoken] = []
        async with client.speak(config, f"tone {500 + 20 * number} for 800") as speech:
            async for part in speech:
                if not parts:
                    order.append(number)
                parts.append(part)
        return len(parts)

    lengths = await asyncio.gather(*(one(number) for number in range(12)))
    assert len(set(lengths)) == 1
    assert all(abs(place - number) <= 2 for place, number in enumerate(order)), order


async def test_a_cancel_frees_the_model_within_one_chunk(stack: Stack, client: Client) -> None:
    config = await load(stack, "tts_light", cpu_ms="16", pace="1000")
    names = ("parley_tts_cancelled_total", "parley_tts_chunks_after_cancel_total",
             "parley_tts_free_after_cancel_seconds_count")  # fmt: skip
    before = [await counted(client, name, "tts_light") for name in names]
    for _ in range(5):
        async with client.speak(config, LONG) as long, client.speak(config, "tone 900 for 400") as next_one:
            await long.next()
            await long.cancel()
            assert (await next_one.next()) is not None
            while await long.next() is not None:
                pass
            assert [part async for part in next_one][-1].final
    after = [await counted(client, name, "tts_light") for name in names]
    cancelled, late, freed = (now - then for now, then in zip(after, before, strict=True))
    assert (cancelled, freed) == (5, 5)
    assert late <= 5


async def test_who_has_heard_the_end_may_ask_again_at_once(stack: Stack, client: Client) -> None:
    """With the same id, and where every place is taken by others who do the same."""
    config = await load(stack, "tts_light", pace="1000", max_streams="8")

    async def one_after_the_other() -> None:
        async with client.speak(config, "tone 600 for 400") as speech:
            for _ in range(40):
                assert [part async for part in speech][-1].final
                await speech.again()
            assert [part async for part in speech][-1].final

    await asyncio.gather(*(one_after_the_other() for _ in range(8)))


async def test_audio_that_cannot_be_sent_is_an_error_in_words(tmp_path: Path) -> None:
    """Not silence until the client's deadline; and the next text is spoken."""
    broken = tmp_path / "tts_light"
    shutil.copytree(TEST_MODELS / "tts_light", broken)
    with (broken / "1" / "model.py").open("a") as code:
        code.write(BREAKS_AT_600)
    with Stack(["tts_light"], repositories=(tmp_path,)) as own:
        client = Client(own.triton.grpc, f"{own.triton.metrics}/metrics")
        config = await client.config("tts_light")
        async with client.speak(config, "tone 600 for 2000") as speech:
            with pytest.raises(Refusal, match="tts_light: audio could not be sent: no memory is left"):
                [part async for part in speech]
        async with client.speak(config, "tone 700 for 2000") as speech:
            assert [part async for part in speech][-1].final
        await client.close()


async def test_live_audio_does_not_wait_for_files(stack: Stack, client: Client) -> None:
    """Eight recordings as fast as they are answered, and one utterance at the pace of its speech."""
    config = await load(stack, "asr_light", cpu_ms="10")
    answered = 0
    over = asyncio.Event()

    async def file() -> None:
        nonlocal answered
        async with client.utterance(config) as utterance:
            await utterance.send(LOUD, start=True)
            while not over.is_set():
                await utterance.send(LOUD)
                answered += 1
            await utterance.send(LOUD, end=True)

    files = [asyncio.create_task(file()) for _ in range(8)]
    waits = []
    async with client.utterance(config) as live:
        await live.send(LOUD, start=True)
        for _ in range(10):
            await asyncio.sleep(0.16)  # real time is what makes it live
            before = answered
            await live.send(LOUD)
            waits.append(answered - before)
        over.set()
        await asyncio.gather(*files)
        heard = await live.send(LOUD, end=True)
    assert heard.final
    assert heard.words
    assert sorted(waits)[7] <= 3, f"chunks of files answered while a live chunk waited: {waits}"
    assert answered > 40, "the files had the rest"


async def test_one_utterance_too_many_is_refused_at_once(stack: Stack) -> None:
    info = model_info(await load(stack, "asr_light", candidates=2))
    assert info.max_sequences == 2
    address, admission, drains = stack.triton.grpc, Admission(), Drains(deadline_s=3.0)
    async with open_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)

        def call() -> SequenceCall:
            return SequenceCall(stub, info.name, drains=drains, decoupled=True)

        first, second, third = call(), call(), call()
        with admission.admit(address, info):
            await first.infer(LOUD, start=True, deadline_s=5)
            with admission.admit(address, info):
                await second.infer(LOUD, start=True, deadline_s=5)
                with pytest.raises(ModelFull, match="at a time"), admission.admit(address, info):
                    await third.infer(LOUD, start=True, deadline_s=5)
                await second.infer(LOUD, end=True, deadline_s=5)
            with admission.admit(address, info):
                heard = await third.infer(LOUD, start=True, end=True, deadline_s=5)
                assert bool(heard["IS_FINAL"][0])
            await first.infer(LOUD, end=True, deadline_s=5)
        await drains.close()


async def test_the_model_drops_what_its_client_left_open(stack: Stack, client: Client) -> None:
    config = await load(stack, "asr_light", idle_s=0.3)
    dropped = await counted(client, "parley_asr_abandoned_total", "asr_light")
    for _ in range(3):
        async with client.utterance(config) as utterance:
            await utterance.send(LOUD, start=True)
    assert await client.metric("parley_asr_open", model="asr_light") == 3
    for _ in range(60):  # the metrics page is the only witness
        await asyncio.sleep(0.05)
        if await client.metric("parley_asr_open", model="asr_light") == 0:
            break
    assert await client.metric("parley_asr_open", model="asr_light") == 0
    assert await client.metric("parley_asr_abandoned_total", model="asr_light") == dropped + 3


async def test_every_answer_tells_its_version(stack: Stack) -> None:
    await load(stack, "tts_light")
    drains = Drains(deadline_s=3.0)
    async with open_channel(stack.triton.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        speech = stream_decoupled(
            stub, "tts_light", {"TEXT": text("Yes.")},
            drains=drains, first_deadline_s=5, next_deadline_s=5,
        )  # fmt: skip
        assert {int(answer["VERSION"][0]) async for answer in speech} == {1}
        await drains.close()
