"""What every `tts_*` model keeps, whoever made it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc.aio import InferenceServerClient, InferInput
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import InferenceServerException

from gateway.settings import TtsSettings
from gateway.speak.triton_tts import TritonSynthesizer
from gateway.speak.tts import TtsError
from gateway.triton.model_info import model_info
from tests.contract.client import Client, Refusal, Spoken, voiced_rms_dbfs

pytestmark = pytest.mark.asyncio(loop_scope="session")

SENTENCE = "The train to the coast leaves at nine in the morning."
LONG = " ".join(["The old harbour lies quiet in the morning, and the boats come home one by one."] * 6)
INPUTS = {"TEXT", "VOICE", "LANGUAGE", "STYLE", "SPEED", "REFERENCE_AUDIO", "CANCEL"}
GREETINGS = {
    "de": "Guten Tag, wie kann ich Ihnen helfen?",
    "fr": "Bonjour, comment puis-je vous aider ?",
    "es": "Buenos días, ¿en qué puedo ayudarle?",
    "it": "Buongiorno, come posso aiutarla?",
    "pt": "Bom dia, como posso ajudar?",
    "nl": "Goedemorgen, hoe kan ik u helpen?",
    "pl": "Dzień dobry, w czym mogę pomóc?",
    "hi": "नमस्ते, मैं आपकी क्या मदद कर सकता हूँ?",
}


async def speak(client: Client, config: ModelConfig, text: str | None, **inputs: Any) -> list[Spoken]:
    async with client.speak(config, text, **inputs) as speech:
        return [part async for part in speech]


def whole(parts: list[Spoken]) -> np.ndarray[Any, Any]:
    return np.concatenate([part.audio for part in parts])


def envelope(pcm: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Level over time; the samples themselves differ from one synthesis to the next."""
    level: np.ndarray[Any, Any] = np.sqrt((pcm[: len(pcm) // 480 * 480].reshape(-1, 480) ** 2).mean(axis=1))
    return level


def lengths_ms(parts: list[Spoken], config: ModelConfig) -> list[float]:
    return [len(part.audio) * 1000 / model_info(config).sample_rate for part in parts]


async def test_describes_itself(tts_config: ModelConfig) -> None:
    info = model_info(tts_config)
    assert info.family == "tts"
    assert info.languages
    assert info.voices
    assert info.sample_rate >= 8_000
    assert info.license
    assert info.memory_mb > 0
    spoken = [tag.strip() for tag in tts_config.parameters["voice_languages"].string_value.split(",")]
    assert len(spoken) == len(info.voices), "each voice has its language"
    assert set(spoken) <= set(info.languages)


async def test_is_decoupled_with_one_instance(tts_config: ModelConfig) -> None:
    assert tts_config.model_transaction_policy.decoupled
    assert sum(group.count for group in tts_config.instance_group) == 1, "CANCEL must meet its request"
    assert tts_config.max_batch_size == 0
    inputs = {tensor.name: tensor for tensor in tts_config.input}
    assert set(inputs) == INPUTS
    assert all(tensor.optional for tensor in inputs.values()), "CANCEL comes alone"
    assert "AUDIO" in {tensor.name for tensor in tts_config.output}


async def test_chunks_are_small_and_final_rides_on_the_last(client: Client, tts_config: ModelConfig) -> None:
    parts = await speak(client, tts_config, SENTENCE)
    lengths = lengths_ms(parts, tts_config)
    assert lengths[0] <= 60, "the first chunk is small"
    assert all(39 <= length <= 161 for length in lengths)
    assert [part.final for part in parts] == [False] * (len(parts) - 1) + [True]
    assert len(parts[-1].audio), "FINAL rides on audio"
    assert 1_500 <= sum(lengths) <= 6_000


async def test_the_first_chunk_is_early(client: Client, tts_config: ModelConfig) -> None:
    await speak(client, tts_config, "Warm up.")
    waits = [(await speak(client, tts_config, SENTENCE))[0].at_ms for _ in range(5)]
    assert sorted(waits)[2] <= 150


async def test_audio_does_not_come_in_one_burst(client: Client, tts_config: ModelConfig) -> None:
    """Hundreds of responses at once are what the server bears worst."""
    parts = await speak(client, tts_config, LONG[:400])
    for at in range(len(parts) - 20):
        assert parts[at + 20].at_ms - parts[at].at_ms >= 50


@pytest.mark.parametrize("text", ["", "   \n", "...", "?!"])
async def test_nothing_to_say_is_final_without_audio(
    client: Client, tts_config: ModelConfig, text: str
) -> None:
    parts = await speak(client, tts_config, text)
    assert parts[-1].final
    assert len(whole(parts)) == 0


@pytest.mark.parametrize(
    "text",
    ["🙂 hi", "a<b>c</b> & \"d\"", "[[x]] 100% of $3.50", "x" * 60, "tab\tnull\0end", "日本語 and English", "’tis “so” — well…"],
)  # fmt: skip
async def test_odd_text_is_spoken_to_its_end(client: Client, tts_config: ModelConfig, text: str) -> None:
    parts = await speak(client, tts_config, text)
    assert parts[-1].final
    assert len(whole(parts)) > 0


async def test_text_is_needed(client: Client, tts_config: ModelConfig) -> None:
    with pytest.raises(Refusal, match="TEXT"):
        await speak(client, tts_config, None)


async def test_a_long_text_begins_as_early_and_is_whole(client: Client, tts_config: ModelConfig) -> None:
    once = len(whole(await speak(client, tts_config, LONG[: len(LONG) // 6])))
    parts = await speak(client, tts_config, LONG)
    assert parts[0].at_ms <= 250
    assert parts[-1].final
    assert 0.75 * 6 * once <= len(whole(parts)) <= 1.3 * 6 * once


async def test_far_too_long_a_text_is_refused(client: Client, tts_config: ModelConfig) -> None:
    with pytest.raises(Refusal, match="characters"):
        await speak(client, tts_config, "word " * 50_000)


async def test_an_unknown_voice_is_refused_by_name(client: Client, tts_config: ModelConfig) -> None:
    with pytest.raises(Refusal, match=r"Voice nobody for language en-US not found\."):
        await speak(client, tts_config, SENTENCE, VOICE="nobody", LANGUAGE="en-US")


async def test_an_unknown_language_is_refused_by_name(client: Client, tts_config: ModelConfig) -> None:
    with pytest.raises(Refusal, match=r"for language tlh-KX not found\."):
        await speak(client, tts_config, SENTENCE, LANGUAGE="tlh-KX")


@pytest.mark.parametrize("speed", [0.0, -1.0, 100.0, float("nan")])
async def test_an_impossible_speed_is_refused(client: Client, tts_config: ModelConfig, speed: float) -> None:
    with pytest.raises(Refusal, match="SPEED"):
        await speak(client, tts_config, SENTENCE, SPEED=speed)


async def test_speed_changes_the_length(client: Client, tts_config: ModelConfig) -> None:
    slow, normal, fast = [
        len(whole(await speak(client, tts_config, SENTENCE, SPEED=speed))) for speed in (0.8, 1.0, 1.4)
    ]
    assert slow > 1.1 * normal > 1.2 * fast


async def test_every_voice_speaks_at_the_same_level_at_once(client: Client, tts_config: ModelConfig) -> None:
    info = model_info(tts_config)
    languages = tts_config.parameters["voice_languages"].string_value.split(",")
    for voice, language in zip(info.voices, languages, strict=True):
        text = GREETINGS.get(language.split("-")[0], SENTENCE)
        pcm = whole(await speak(client, tts_config, text, VOICE=voice, LANGUAGE=language))
        start = np.flatnonzero(np.abs(pcm) > 0.003)[0] * 1000 / info.sample_rate
        assert start < 60, f"{voice} begins with {start:.0f} ms of silence"
        assert -22.5 <= voiced_rms_dbfs(pcm, info.sample_rate) <= -17.5, voice
        assert np.abs(pcm).max() < 1.0, f"{voice} clips"


async def test_a_language_finds_a_voice(client: Client, tts_config: ModelConfig) -> None:
    for language in model_info(tts_config).languages:
        text = GREETINGS.get(language.split("-")[0], SENTENCE)
        assert len(whole(await speak(client, tts_config, text, LANGUAGE=language))) > 0
        assert len(whole(await speak(client, tts_config, text, LANGUAGE=language.lower()))) > 0


async def test_streams_at_the_same_time_do_not_cross(client: Client, tts_config: ModelConfig) -> None:
    texts = ["One.", SENTENCE, "Where is the station?", "Twenty seven red apples are on the table."]
    alone = [whole(await speak(client, tts_config, text)) for text in texts]
    together = await asyncio.gather(*(speak(client, tts_config, text) for text in texts * 4))
    for expected, parts in zip(alone * 4, together, strict=True):
        got = whole(parts)
        assert len(got) == pytest.approx(len(expected), rel=0.1)
        ours, theirs = envelope(got), envelope(expected)
        size = min(len(ours), len(theirs))
        assert np.corrcoef(ours[:size], theirs[:size])[0, 1] > 0.8


async def test_cancel_stops_the_work(client: Client, tts_config: ModelConfig) -> None:
    name = tts_config.name
    async with client.speak(tts_config, LONG) as speech:
        for _ in range(4):
            await speech.next()
        before = await _late_chunks(client, name)
        began = time.perf_counter()
        await speech.cancel()
        late: list[Spoken] = []
        while (part := await speech.next()) is not None:
            late.append(part)
        took_ms = (time.perf_counter() - began) * 1000
    assert took_ms <= 250, "cancelled within 200 ms"
    assert [part.final for part in late].count(True) == 2, "the request and its CANCEL both end"
    assert sum(lengths_ms(late, tts_config)) <= 1_000
    after = await _late_chunks(client, name)
    if before is not None and after is not None:
        assert after - before <= 2


async def test_cancel_of_one_leaves_the_other(client: Client, tts_config: ModelConfig) -> None:
    alone = whole(await speak(client, tts_config, SENTENCE))
    async with client.speak(tts_config, LONG) as stopped, client.speak(tts_config, SENTENCE) as kept:
        await stopped.next()
        await stopped.cancel()
        while await stopped.next() is not None:
            pass
        parts = [part async for part in kept]
    assert len(whole(parts)) == pytest.approx(len(alone), rel=0.05)


async def test_cancel_of_nothing_is_no_error(client: Client, tts_config: ModelConfig) -> None:
    parts = await speak(client, tts_config, None, CANCEL=np.array([True]))
    assert [part.final for part in parts] == [True]
    assert len(whole(parts)) == 0


async def test_cancel_behind_the_end_is_no_error(client: Client, tts_config: ModelConfig) -> None:
    async with client.speak(tts_config, "Yes.") as speech:
        assert [part async for part in speech][-1].final
        await speech.cancel()
        ack = await speech.next()
        assert ack is not None
        assert ack.final
        assert await speech.next() is None


async def test_a_vanished_client_stops_the_work(client: Client, tts_config: ModelConfig) -> None:
    name = tts_config.name
    try:
        before = await client.metric("parley_tts_cancelled_total", model=name, how="vanished")
    except KeyError:
        pytest.skip(f"{name} counts no cancelled streams")
    async with client.speak(tts_config, LONG * 8) as speech:
        for _ in range(8):
            await speech.next()
        await speech.vanish()
        for _ in range(100):  # the metrics page is the only witness
            await asyncio.sleep(0.03)
            if await client.metric("parley_tts_cancelled_total", model=name, how="vanished") > before:
                return
    pytest.fail("the model went on for a client that was gone")


async def test_the_official_client_is_content(client: Client, tts_config: ModelConfig) -> None:
    name, rate = tts_config.name, model_info(tts_config).sample_rate
    async with InferenceServerClient(client.address) as official:
        assert await official.is_server_live()
        assert await official.is_model_ready(name)
        assert name in {model.name for model in (await official.get_model_repository_index()).models}
        metadata = await official.get_model_metadata(name)
        assert {tensor.name for tensor in metadata.inputs} == INPUTS
        assert (await official.get_model_config(name)).config.name == name
        said = InferInput("TEXT", [1], "BYTES")
        said.set_data_from_numpy(np.array([SENTENCE.encode()], dtype=object))

        async def asked() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": name, "inputs": [said], "request_id": "official-1"}

        results = [found async for found in official.stream_infer(asked())]
        assert [error for _, error in results] == [None] * len(results)
        assert {result.get_response().id for result, _ in results} == {"official-1"}
        samples = sum(len(result.as_numpy("AUDIO")) for result, _ in results)
        assert 1_500 <= samples * 1000 / rate <= 6_000
        with pytest.raises(InferenceServerException, match="decoupled"):
            await official.infer(name, [said])


async def test_the_gateways_own_client_is_content(client: Client, tts_config: ModelConfig) -> None:
    synthesizer = TritonSynthesizer(TtsSettings(uri=client.address, model=tts_config.name))
    try:
        await synthesizer.check()
        chunks = [chunk async for chunk in synthesizer.synthesize(SENTENCE)]
        assert {chunk.rate for chunk in chunks} == {model_info(tts_config).sample_rate}
        assert len(chunks) > 5
        given_up = synthesizer.synthesize(LONG)
        await anext(given_up)
        await given_up.aclose()
        assert [chunk async for chunk in synthesizer.synthesize("Yes.")]
        with pytest.raises(TtsError, match="nobody"):
            await anext(synthesizer.synthesize(SENTENCE, voice="nobody"))
    finally:
        await synthesizer.close()


async def _late_chunks(client: Client, model: str) -> float | None:
    try:
        return await client.metric("parley_tts_chunks_after_cancel_total", model=model)
    except KeyError:
        return None
