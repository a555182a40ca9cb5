"""Our requests, and the official client's, against one real server."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

import numpy as np
import pytest
import tritonclient.grpc as official
import tritonclient.grpc.aio as official_aio
from grpc.aio import Channel
from tritonclient.utils import InferenceServerException

from gateway.triton.channel import GRPCInferenceServiceStub, open_channel
from gateway.triton.codec import Array, text
from gateway.triton.errors import SequenceLost, TritonError, TritonTimeout, TritonUnavailable
from gateway.triton.infer import SequenceCall, stream_decoupled
from gateway.triton.repository import Repository
from gateway.triton.stream import Drains
from tests.support.stack import TEST_MODELS, Stack, shared_stack

pytestmark = pytest.mark.stack

stack = shared_stack("tts_tone", "asr_count", "asr_count_decoupled", repository=TEST_MODELS, scope="module")


@dataclass
class Client:
    channel: Channel
    stub: GRPCInferenceServiceStub
    drains: Drains

    def speak(
        self, chunks: int, style: str = "fast", wait_s: float = 5.0
    ) -> AsyncGenerator[dict[str, Array], None]:
        return stream_decoupled(
            self.stub,
            "tts_tone",
            {"TEXT": text(str(chunks)), "STYLE": text(style)},
            drains=self.drains,
            first_deadline_s=wait_s,
            next_deadline_s=wait_s,
        )

    async def made(self) -> int:
        return [int(outputs["MADE"][0]) async for outputs in self.speak(1)][-1]

    def sequence(self, model: str) -> SequenceCall:
        decoupled = model.endswith("_decoupled")
        return SequenceCall(self.stub, model, drains=self.drains, decoupled=decoupled)


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Client]:
    channel = open_channel(stack.triton.grpc)
    its = Client(channel, GRPCInferenceServiceStub(channel), Drains(deadline_s=3.0))
    yield its
    async with asyncio.timeout(5):
        await its.drains.close()
    await channel.close()
    left = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    assert not left


# --- decoupled streams


async def test_audio_comes_while_it_is_made(client: Client) -> None:
    speech = client.speak(1_000, "paced")  # 40 s of audio, made at real time
    async with asyncio.timeout(10):
        first = await anext(speech)
        second = await anext(speech)
    assert first["AUDIO"].shape == (640,)
    assert first["AUDIO"].dtype == np.float32
    assert second["MADE"] - first["MADE"] == 1
    await speech.aclose()


async def test_closing_returns_at_once_and_the_model_stops_making(client: Client) -> None:
    before = await client.made()
    speech = client.speak(100_000)
    for _ in range(20):
        await anext(speech)
    with pytest.raises(StopIteration):
        speech.aclose().send(None)  # done without once giving way to the loop
    assert len(client.drains) == 2, "the rest of the speech, and the CANCEL on a call of its own"
    await client.drains.close()
    after = await client.made()
    assert after - before < 5_000  # it makes some 10,000 a second
    await client.sequence("asr_count").infer(np.zeros(1, np.float32), start=True, end=True, deadline_s=5)
    assert await client.made() == after + 1  # which made() makes itself: nothing else was made


async def test_cancelling_the_reader_stops_the_model_and_no_other_stream(client: Client) -> None:
    async def listen(chunks: int, heard: asyncio.Event) -> int:
        count = 0
        async for _ in client.speak(chunks, "paced"):
            count += 1
            heard.set()
        return count

    heard = asyncio.Event()
    other = asyncio.create_task(listen(10, asyncio.Event()))
    mine = asyncio.create_task(listen(1_000, heard))
    await heard.wait()
    mine.cancel()
    with pytest.raises(asyncio.CancelledError):
        await mine
    async with asyncio.timeout(1):
        await client.drains.close()
    assert await other == 10


async def test_a_failing_model_says_why(client: Client) -> None:
    speech = client.speak(3, "fail")
    assert "AUDIO" in await anext(speech)
    with pytest.raises(TritonError, match="tts_tone: the voice is hoarse"):
        await anext(speech)


async def test_a_silent_model_is_given_up_and_cancelled(client: Client) -> None:
    with pytest.raises(TritonTimeout, match=r"tts_tone: no answer within 0\.2 s"):
        await anext(client.speak(1, "mute", wait_s=0.2))
    async with asyncio.timeout(1):
        await client.drains.close()


async def test_an_unknown_model_is_unavailable(client: Client) -> None:
    stream = stream_decoupled(
        client.stub, "tts_nobody", {}, drains=client.drains, first_deadline_s=2, next_deadline_s=2
    )
    with pytest.raises(TritonUnavailable, match="tts_nobody"):
        await anext(stream)


async def test_many_cancels_in_bursts_do_the_server_no_harm(client: Client, stack: Stack) -> None:
    async def once(heard: int) -> None:
        speech = client.speak(2_000)
        async for _ in speech:
            heard -= 1
            if heard <= 0:
                break
        await speech.aclose()

    pid = stack.triton.pid
    for round_ in range(10):
        await asyncio.gather(*(once(1 + (round_ * 7 + n) % 30) for n in range(8)))
    await client.drains.close()
    assert await client.made() > 0
    assert stack.triton.pid == pid


# --- sequences


@pytest.mark.parametrize("model", ["asr_count", "asr_count_decoupled"])
async def test_a_sequence_keeps_its_state_from_chunk_to_chunk(client: Client, model: str) -> None:
    one, two = client.sequence(model), client.sequence(model)
    chunk = np.zeros(2_560, np.float32)
    first = await one.infer(chunk, start=True, language="en-US", hints=["parley", "triton"], deadline_s=5)
    assert first["TRANSCRIPT"].tolist() == ["en-US parley triton 2560"]
    await two.infer(chunk[:100], start=True, deadline_s=5)
    await one.infer(chunk, deadline_s=5)
    last = await one.infer(chunk[:1_000], end=True, deadline_s=5)
    assert last["TRANSCRIPT"].tolist() == ["en-US parley triton 6120"]
    assert last["IS_FINAL"].tolist() == [True]
    assert last["WORDS"].tolist() == ["2560", "2560", "1000"]
    assert last["WORD_TIMES"].shape == (3, 2)
    assert (await two.infer(chunk[:5], end=True, deadline_s=5))["TRANSCRIPT"].tolist() == ["105"]


@pytest.mark.parametrize("model", ["asr_count", "asr_count_decoupled"])
async def test_a_sequence_that_was_never_started_is_lost(client: Client, model: str) -> None:
    sequence = client.sequence(model)
    with pytest.raises(SequenceLost, match="start it again"):
        await sequence.infer(np.zeros(16, np.float32), deadline_s=5)
    sequence.give_up()


@pytest.mark.parametrize("model", ["asr_count", "asr_count_decoupled"])
async def test_giving_up_ends_the_sequence_in_the_model(client: Client, model: str) -> None:
    sequence = client.sequence(model)
    await sequence.infer(np.zeros(16, np.float32), start=True, deadline_s=5)
    listening = asyncio.create_task(sequence.infer(np.zeros(16, np.float32), deadline_s=5))
    await asyncio.sleep(0)
    listening.cancel()  # with a chunk in flight
    with pytest.raises(asyncio.CancelledError):
        await listening
    sequence.give_up()
    await client.drains.close()
    with pytest.raises(TritonError):
        await sequence.infer(np.zeros(16, np.float32), deadline_s=5)


async def test_an_unloaded_recogniser_is_unavailable_and_comes_back(client: Client) -> None:
    repository = Repository(client.channel)
    sequence = client.sequence("asr_count")
    await sequence.infer(np.zeros(16, np.float32), start=True, deadline_s=5)
    await repository.unload("asr_count")
    states = {m.name: m.state for m in await repository.index()}
    assert states["asr_count"] == "UNAVAILABLE"
    with pytest.raises(TritonUnavailable):
        await sequence.infer(np.zeros(16, np.float32), deadline_s=5)
    await repository.load("asr_count")
    again = client.sequence("asr_count")
    outputs = await again.infer(np.zeros(16, np.float32), start=True, end=True, deadline_s=5)
    assert outputs["TRANSCRIPT"].tolist() == ["16"]


# --- repository


async def test_a_model_describes_itself(client: Client) -> None:
    info = await Repository(client.channel).describe("tts_tone")
    assert info.decoupled
    assert info.max_batch_size == 0
    assert (info.family, info.voices, info.sample_rate) == ("tts", ("beep",), 16_000)
    assert info.languages == ("en-US", "de-DE")
    assert info.license == "Apache-2.0"
    assert not info.needs_gpu
    with pytest.raises(TritonUnavailable):
        await Repository(client.channel).describe("tts_nobody")


async def test_a_load_override_holds_until_the_model_is_unloaded(client: Client) -> None:
    repository = Repository(client.channel)
    config = await repository.config("asr_count")
    config.parameters["family"].string_value = "other"
    await repository.load("asr_count", config)
    assert (await repository.describe("asr_count")).family == "other"
    await repository.unload("asr_count")
    await repository.load("asr_count")
    assert (await repository.describe("asr_count")).family == "asr"


async def test_a_server_that_is_not_there_is_unavailable_within_the_deadline() -> None:
    channel = open_channel("127.0.0.1:1")
    repository = Repository(channel)
    for call in (repository.index(), repository.load("x"), repository.is_ready("x"), repository.config("x")):
        with pytest.raises(TritonUnavailable):
            await call
    assert not await repository.is_live(deadline_s=1)
    await channel.close()


# --- the official client, unmodified


def test_official_client_index_load_unload(stack: Stack) -> None:
    with official.InferenceServerClient(stack.triton.grpc) as its:
        assert its.is_server_live()
        assert its.is_server_ready()
        names = {m["name"] for m in its.get_model_repository_index(as_json=True)["models"]}
        assert names >= {"tts_tone", "asr_count", "asr_count_decoupled", "asr_broken"}
        its.load_model("asr_count_decoupled")
        assert its.is_model_ready("asr_count_decoupled")
        with pytest.raises(InferenceServerException, match="dictionary"):
            its.load_model("asr_broken")
        its.unload_model("asr_broken")
        assert not its.is_model_ready("asr_broken")


def test_official_client_decoupled_stream(stack: Stack) -> None:
    answers: queue.Queue[tuple[official.InferResult, Exception | None]] = queue.Queue()
    with official.InferenceServerClient(stack.triton.grpc) as its:
        its.start_stream(lambda result, error: answers.put((result, error)))
        its.async_stream_infer(
            "tts_tone", [_input("TEXT", text("4"))], request_id="a", enable_empty_final_response=True
        )
        audio = []
        while True:
            result, error = answers.get(timeout=10)
            assert error is None
            audio.append(result.as_numpy("AUDIO"))
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
        its.stop_stream()
    assert [len(chunk) for chunk in audio] == [640] * 4


def test_official_client_sequence(stack: Stack) -> None:
    with official.InferenceServerClient(stack.triton.grpc) as its:
        audio = _input("AUDIO", np.zeros((1, 320), np.float32))
        for index in range(3):
            result = its.infer(
                "asr_count", [audio], sequence_id=77, sequence_start=index == 0, sequence_end=index == 2
            )
        assert result.as_numpy("TRANSCRIPT").tolist() == [[b"960"]]


async def test_official_aio_client(stack: Stack) -> None:
    async with official_aio.InferenceServerClient(stack.triton.grpc) as its:
        assert await its.is_model_ready("tts_tone")

        async def requests() -> AsyncIterator[dict[str, object]]:
            yield {"model_name": "tts_tone", "inputs": [_input("TEXT", text("3"))]}

        got = 0
        async for result, error in its.stream_infer(requests()):
            assert error is None
            got += len(result.as_numpy("AUDIO"))
        assert got == 3 * 640


def _input(name: str, array: Array) -> official.InferInput:
    kind = "BYTES" if array.dtype == object else "FP32"
    tensor = official.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    return tensor
