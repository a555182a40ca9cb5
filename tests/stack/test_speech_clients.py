"""The gateway's own recogniser and synthesisers against the real models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gateway.audio.pcm import rms_dbfs, to_float, to_pcm
from gateway.listen.asr import AsrError, Hypothesis
from gateway.listen.riva_asr import RivaRecognizer
from gateway.riva.server import SpeechServer
from gateway.settings import AsrSettings, ModelsSettings, TritonSettings, TtsSettings
from gateway.speak.factory import make_synthesizer
from gateway.speak.tts import Synthesizer, TtsError
from tests.support.stack import Stack, shared_stack

pytestmark = pytest.mark.stack

SPEECH = Path(__file__).parents[3] / "shared" / "audio"
stack = shared_stack("asr_pocketsphinx", "tts_espeak", scope="module")


@pytest.fixture
async def riva(stack: Stack) -> AsyncIterator[str]:
    server = SpeechServer(TritonSettings(uri=stack.triton.grpc), ModelsSettings(), "127.0.0.1:0")
    yield await server.start()
    await server.stop(0.0)


@pytest.fixture
async def recognizer(riva: str) -> AsyncIterator[RivaRecognizer]:
    its = RivaRecognizer(AsrSettings(uri=riva))
    yield its
    await its.close()


@pytest.fixture(params=["triton", "riva"])
async def synthesizer(request: pytest.FixtureRequest, stack: Stack, riva: str) -> AsyncIterator[Synthesizer]:
    uri = stack.triton.grpc if request.param == "triton" else riva
    its = make_synthesizer(TtsSettings(kind=request.param, uri=uri))
    yield its
    await its.close()


def recorded(name: str) -> bytes:
    if not (SPEECH / name).exists():
        pytest.skip("no recordings of real speech here")
    samples, rate = soundfile.read(SPEECH / name, dtype="float32")
    assert rate == 16_000
    return to_pcm(np.asarray(samples, np.float32))


async def windows(pcm: bytes) -> AsyncIterator[bytes]:
    for k in range(0, len(pcm), 1_024):
        yield pcm[k : k + 1_024]


async def heard(recognizer: RivaRecognizer, pcm: bytes, language: str = "en-US") -> list[Hypothesis]:
    return [h async for h in recognizer.recognize(windows(pcm), language=language)]


async def test_real_speech_becomes_partials_and_one_final(recognizer: RivaRecognizer) -> None:
    await recognizer.check()
    hypotheses = await heard(recognizer, recorded("goforward.wav"))
    assert [h.final for h in hypotheses].count(True) == 1
    final = hypotheses[-1]
    assert final.text.lower() == "go forward ten meters"
    assert [w.text for w in final.words] == final.text.split()
    assert all(a.end_ms <= b.end_ms for a, b in zip(final.words, final.words[1:], strict=False))
    assert any(h.text for h in hypotheses[:-1])


async def test_pauses_do_not_split_an_utterance(recognizer: RivaRecognizer) -> None:
    speech = recorded("cards-001.wav")
    hypotheses = await heard(recognizer, speech + bytes(2 * 16_000 * 2) + speech)
    assert [h.final for h in hypotheses].count(True) == 1
    words = hypotheses[-1].words
    assert words[0].start_ms < 1_200
    assert words[-1].end_ms > 3_000


async def test_an_unknown_language_is_refused_in_words(recognizer: RivaRecognizer) -> None:
    with pytest.raises(AsrError, match="ru-RU") as caught:
        await heard(recognizer, bytes(320_000), "ru-RU")
    assert not caught.value.retryable


async def test_a_sentence_is_spoken_as_it_is_made(synthesizer: Synthesizer) -> None:
    await synthesizer.check()
    chunks = [c async for c in synthesizer.synthesize("The quick brown fox jumps over the lazy dog.")]
    assert len(chunks) > 3
    assert len({c.rate for c in chunks}) == 1
    pcm = b"".join(c.pcm for c in chunks)
    assert 1.5 < len(pcm) / 2 / chunks[0].rate < 6
    assert rms_dbfs(to_float(pcm)) > -40


async def test_giving_up_returns_at_once_and_the_next_sentence_is_well(synthesizer: Synthesizer) -> None:
    for _ in range(5):
        stream = synthesizer.synthesize(
            "This sentence is long enough to be given up in the middle of it. " * 10
        )
        await anext(stream)
        began = time.perf_counter()
        await stream.aclose()
        assert time.perf_counter() - began < 0.1
    assert [c async for c in synthesizer.synthesize("Well.")]


async def test_many_sentences_at_once(synthesizer: Synthesizer) -> None:
    async def length(text: str) -> int:
        return sum([len(c.pcm) async for c in synthesizer.synthesize(text)])

    texts = ["One.", "One, two, three, four, five, six, seven, eight, nine, ten."] * 4
    lengths = await asyncio.gather(*(length(text) for text in texts))
    assert max(lengths[::2]) < min(lengths[1::2])


async def test_an_unknown_voice_is_refused_in_words(synthesizer: Synthesizer) -> None:
    with pytest.raises(TtsError, match="nobody"):
        [c async for c in synthesizer.synthesize("Hello.", voice="nobody")]
