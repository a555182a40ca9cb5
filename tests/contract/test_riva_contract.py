"""What every Riva speech recognition keeps: our own over real models, and the emulated one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
import riva.client
from riva.client.proto import riva_asr_pb2 as rasr
from riva.client.proto import riva_asr_pb2_grpc

from gateway.listen.asr import Hypothesis
from gateway.listen.riva_asr import RivaRecognizer
from gateway.riva.server import SpeechServer
from gateway.settings import AsrSettings, ModelsSettings, TritonSettings
from gateway.triton.channel import open_channel
from gateway.triton.server import EmbeddedTriton
from load.emulators import Addresses
from load.emulators.voice import cut
from tests.contract.client import Recording

pytestmark = pytest.mark.asyncio(loop_scope="session")

RATE = 16_000
CHUNK = 3_200
"""Bytes: 100 ms."""
QUIET_MS = 1_200
"""Ends an utterance in an open stream, with room to spare."""
ANSWER_S = 20.0


@dataclass
class Service:
    """One recogniser."""

    address: str
    stub: Any
    speech: bytes
    """PCM16 at 16 kHz that it understands, with quiet on both sides."""

    async def ask(self, *messages: rasr.StreamingRecognizeRequest) -> list[rasr.StreamingRecognizeResponse]:
        async with asyncio.timeout(ANSWER_S):
            return [response async for response in self.stub.StreamingRecognize(iter(messages))]

    async def refusal(self, *messages: rasr.StreamingRecognizeRequest) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.ask(*messages)
        return caught.value


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ours(server: EmbeddedTriton) -> AsyncIterator[str]:
    made = SpeechServer(TritonSettings(uri=server.grpc), ModelsSettings(), "127.0.0.1:0")
    yield await made.start()
    await made.stop(1.0)


@pytest.fixture
def address(request: pytest.FixtureRequest) -> str:
    if request.param == "emulated":
        found: Addresses = request.getfixturevalue("emulated")
        return found.asr
    own: str = request.getfixturevalue("ours")
    return own


@pytest.fixture
def speech(request: pytest.FixtureRequest, address: str) -> bytes:
    if request.node.callspec.params["address"] == "emulated":
        return in_quiet(cut(RATE, 0, 2 * RATE))
    recordings: dict[str, Recording] = request.getfixturevalue("recordings")
    return in_quiet(recordings["goforward"].pcm)


@pytest_asyncio.fixture(loop_scope="session")
async def service(address: str, speech: bytes) -> AsyncIterator[Service]:
    async with open_channel(address) as channel:
        yield Service(address, riva_asr_pb2_grpc.RivaSpeechRecognitionStub(channel), speech)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "service" in metafunc.fixturenames:
        services = [pytest.param("ours", marks=pytest.mark.stack), pytest.param("emulated")]
        metafunc.parametrize("address", services, indirect=True)


def in_quiet(pcm: Any) -> bytes:
    quiet = np.zeros(RATE // 5, np.float32)
    sound: bytes = (np.concatenate([quiet, pcm, quiet]) * 32_767).astype("<i2").tobytes()
    return sound


def first(*, interim: bool = True, **changed: Any) -> rasr.StreamingRecognizeRequest:
    fields = {"encoding": 1, "sample_rate_hertz": RATE, "language_code": "en-US"}
    config = rasr.RecognitionConfig(**fields | {"enable_word_time_offsets": True} | changed)
    streaming = rasr.StreamingRecognitionConfig(config=config, interim_results=interim)
    return rasr.StreamingRecognizeRequest(streaming_config=streaming)


def audio(pcm: bytes, size: int = CHUNK) -> Iterator[rasr.StreamingRecognizeRequest]:
    for at in range(0, len(pcm), size):
        yield rasr.StreamingRecognizeRequest(audio_content=pcm[at : at + size])


def finals(responses: list[rasr.StreamingRecognizeResponse]) -> list[Any]:
    return [result for response in responses for result in response.results if result.is_final]


def texts(responses: list[rasr.StreamingRecognizeResponse]) -> list[str]:
    said = [result.alternatives[0].transcript.strip() for result in finals(responses)]
    return [text for text in said if text]


async def test_it_describes_its_recognisers(service: Service) -> None:
    asked = rasr.RivaSpeechRecognitionConfigRequest()
    reply = await service.stub.GetRivaSpeechRecognitionConfig(asked)
    assert {model.parameters["type"] for model in reply.model_config} == {"online", "offline"}
    for model in reply.model_config:
        assert model.model_name
        assert "en-US" in model.parameters["language_code"].split(",")
        one = rasr.RivaSpeechRecognitionConfigRequest(model_name=model.model_name)
        assert (await service.stub.GetRivaSpeechRecognitionConfig(one)).model_config
    with pytest.raises(grpc.aio.AioRpcError, match="nobody is not available on server"):
        await service.stub.GetRivaSpeechRecognitionConfig(
            rasr.RivaSpeechRecognitionConfigRequest(model_name="nobody")
        )


async def test_partials_grow_into_one_final(service: Service) -> None:
    responses = await service.ask(first(), *audio(service.speech))
    partials = []
    for response in responses[:-1]:
        assert [result.is_final for result in response.results] == [False] * len(response.results)
        assert all(0 < result.stability <= 1 for result in response.results)
        assert all(result.channel_tag == 1 for result in response.results)
        partials.append("".join(r.alternatives[0].transcript for r in response.results if r.alternatives))
    assert len(set(partials)) >= 3
    (final,) = finals(responses)
    assert responses[-1].results[0].is_final
    best = final.alternatives[0]
    assert best.transcript.endswith(" "), "clients join finals without a space of their own"
    assert list(best.language_code) == ["en-US"]
    length_ms = len(service.speech) / 2 / RATE * 1000
    assert final.audio_processed == pytest.approx(length_ms / 1000, abs=0.05)
    assert [word.word for word in best.words] == best.transcript.split()
    edges = [edge for word in best.words for edge in (word.start_time, word.end_time)]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= length_ms + 50


async def test_without_interim_results_there_are_finals_only(service: Service) -> None:
    responses = await service.ask(first(interim=False), *audio(service.speech))
    assert len(finals(responses)) == len(responses) == 1
    assert texts(responses)


async def test_words_come_only_when_they_are_asked_for(service: Service) -> None:
    responses = await service.ask(first(enable_word_time_offsets=False), *audio(service.speech))
    assert not finals(responses)[0].alternatives[0].words


async def test_any_size_of_message_will_do(service: Service) -> None:
    """Odd ones too: a sample cut in two is whole again on the other side."""
    for size in (639, len(service.speech)):
        assert texts(await service.ask(first(), *audio(service.speech, size)))


async def test_a_wav_header_in_the_stream_is_no_sound(service: Service) -> None:
    header = b"RIFF" + (36 + len(service.speech)).to_bytes(4, "little") + b"WAVEfmt "
    header += (16).to_bytes(4, "little") + (1).to_bytes(2, "little") + (1).to_bytes(2, "little")
    header += RATE.to_bytes(4, "little") + (2 * RATE).to_bytes(4, "little")
    header += (2).to_bytes(2, "little") + (16).to_bytes(2, "little")
    header += b"data" + len(service.speech).to_bytes(4, "little")
    assert texts(await service.ask(first(encoding=0, sample_rate_hertz=0), *audio(header + service.speech)))


async def test_quiet_says_nothing(service: Service) -> None:
    assert not texts(await service.ask(first(), *audio(bytes(2 * RATE))))
    assert not texts(await service.ask(first()))


async def test_a_pause_ends_an_utterance_while_the_stream_goes_on(service: Service) -> None:
    pause = bytes(2 * RATE * QUIET_MS // 1000)
    requests: asyncio.Queue[rasr.StreamingRecognizeRequest | None] = asyncio.Queue()

    async def sent() -> AsyncIterator[rasr.StreamingRecognizeRequest]:
        while (request := await requests.get()) is not None:
            yield request

    call = service.stub.StreamingRecognize(sent())
    for request in (first(), *audio(service.speech + pause)):
        requests.put_nowait(request)
    async with asyncio.timeout(ANSWER_S):
        responses: list[rasr.StreamingRecognizeResponse] = []
        while not finals(responses):  # and nobody has half-closed
            responses.append(await call.read())
        for request in audio(service.speech):
            requests.put_nowait(request)
        requests.put_nowait(None)
        while (response := await call.read()) is not grpc.aio.EOF:
            responses.append(response)
    assert len(texts(responses)) == 2
    length_ms = len(service.speech) / 32 + QUIET_MS
    assert finals(responses)[1].alternatives[0].words[0].start_time >= length_ms, "times count from the start"


async def test_the_client_may_keep_the_end_to_itself(service: Service) -> None:
    whole = first(custom_configuration={"parley.endpointing": "off"})
    pause = bytes(2 * RATE * QUIET_MS // 1000)
    assert len(texts(await service.ask(whole, *audio(service.speech + pause)))) == 1


async def test_an_end_by_order(service: Service) -> None:
    order = rasr.StreamingRecognizeRequest(audio_content=bytes(CHUNK), runtime_config={"force_eou": "true"})
    whole = first(custom_configuration={"parley.endpointing": "off"})
    responses = await service.ask(whole, *audio(service.speech), order, *audio(service.speech))
    assert len(texts(responses)) == 2


async def test_an_id_is_echoed(service: Service) -> None:
    opening = first()
    opening.id.value = "call-7"
    for response in await service.ask(opening, *audio(service.speech)):
        assert response.id.value == "call-7"


async def test_what_is_refused_and_how(service: Service) -> None:
    sound = next(audio(service.speech))
    for messages, words in (
        ([sound], "first message"),
        ([first(), first()], "configured already"),
        ([first(language_code="ru-RU"), sound], "Unavailable model requested. Lang: ru-RU, Type: online"),
        ([first(model="nobody"), sound], "Unavailable model requested"),
    ):
        refusal = await service.refusal(*messages)
        assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert words in (refusal.details() or "")


async def test_a_whole_file_at_once(service: Service) -> None:
    config = first().streaming_config.config
    request = rasr.RecognizeRequest(config=config, audio=service.speech)
    request.id.value = "file-1"
    reply = await service.stub.Recognize(request)
    assert reply.id.value == "file-1"
    best = reply.results[0].alternatives[0]
    assert best.transcript.strip()
    assert [word.word for word in best.words] == best.transcript.split()
    config.language_code = "ru-RU"
    with pytest.raises(grpc.aio.AioRpcError, match="Lang: ru-RU, Type: offline"):
        await service.stub.Recognize(rasr.RecognizeRequest(config=config, audio=service.speech))


async def test_the_official_client_is_content(service: Service) -> None:
    def drive() -> tuple[list[Any], Any]:
        asr = riva.client.ASRService(riva.client.Auth(uri=service.address))
        config = riva.client.RecognitionConfig(
            encoding=riva.client.AudioEncoding.LINEAR_PCM, sample_rate_hertz=RATE, language_code="en-US"
        )
        streaming = riva.client.StreamingRecognitionConfig(config=config, interim_results=True)
        chunks = [service.speech[at : at + CHUNK] for at in range(0, len(service.speech), CHUNK)]
        return list(asr.streaming_response_generator(chunks, streaming)), asr.offline_recognize(
            service.speech, config
        )

    streamed, offline = await asyncio.to_thread(drive)
    assert texts(streamed)
    assert offline.results[0].alternatives[0].transcript.strip()


async def test_the_gateways_own_client_is_content(service: Service) -> None:
    recognizer = RivaRecognizer(AsrSettings(uri=service.address))

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(service.speech), 1_024):
            yield service.speech[at : at + 1_024]
            await asyncio.sleep(0)

    try:
        await recognizer.check()
        heard: list[Hypothesis] = [h async for h in recognizer.recognize(chunks(), language="en-US")]
    finally:
        await recognizer.close()
    assert heard[-1].final
    assert heard[-1].text
    assert heard[-1].stable == len(heard[-1].text)
    assert [word.text for word in heard[-1].words] == heard[-1].text.split()
    assert all(not hypothesis.final for hypothesis in heard[:-1])
    assert len(heard) >= 3
