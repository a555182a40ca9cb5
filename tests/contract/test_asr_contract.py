"""What every `asr_*` model keeps, whoever made it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from gateway.triton.model_info import model_info
from gateway.triton.server import EmbeddedTriton
from tests.contract.client import CHUNK, Client, Heard, Recording, Refusal, chunks_of, word_errors

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

INPUTS = {"AUDIO": "TYPE_FP32", "LANGUAGE": "TYPE_STRING", "HINTS": "TYPE_STRING"}
OUTPUTS = {
    "TRANSCRIPT": ("TYPE_STRING", [1]),
    "STABLE": ("TYPE_INT32", [1]),
    "IS_FINAL": ("TYPE_BOOL", [1]),
    "WORDS": ("TYPE_STRING", [-1]),
    "WORD_TIMES": ("TYPE_INT32", [-1, 2]),
}
NOTHING = np.zeros(0, np.float32)
QUIET = np.zeros(CHUNK, np.float32)


async def test_describes_itself(asr_config: ModelConfig) -> None:
    info = model_info(asr_config)
    assert info.family == "asr"
    assert info.languages
    assert info.sample_rate == 16_000
    assert info.license
    assert info.memory_mb > 0
    assert asr_config.parameters["needs_gpu"].string_value in ("true", "false")


async def test_is_a_sequence_model(asr_config: ModelConfig) -> None:
    batching = asr_config.sequence_batching
    assert batching.HasField("oldest")
    assert batching.oldest.max_candidate_sequences >= 64
    assert batching.max_sequence_idle_microseconds == 5_000_000
    assert not [c for c in batching.control_input for k in c.control if k.kind == k.CONTROL_SEQUENCE_CORRID]
    assert sum(group.count for group in asr_config.instance_group) == 1
    assert asr_config.max_batch_size >= 32


async def test_has_the_tensors(asr_config: ModelConfig) -> None:
    inputs = {tensor.name: tensor for tensor in asr_config.input}
    assert {name: DataType.Name(t.data_type) for name, t in inputs.items()} == INPUTS
    assert list(inputs["AUDIO"].dims) == [-1]
    assert inputs["LANGUAGE"].optional
    assert inputs["HINTS"].optional
    outputs = {t.name: (DataType.Name(t.data_type), list(t.dims)) for t in asr_config.output}
    assert outputs.items() >= OUTPUTS.items(), "more is nobody's trouble"


async def test_every_chunk_is_answered_and_the_last_is_final(
    client: Client, asr_config: ModelConfig, recordings: dict[str, Recording]
) -> None:
    said = recordings["riva-sample"]
    heard = await client.recognize(asr_config, said.pcm)
    assert [answer.final for answer in heard] == [False] * (len(heard) - 1) + [True]
    assert len(heard) == -(-len(said.pcm) // CHUNK)
    lengths = [len(answer.text.split()) for answer in heard]
    assert lengths[0] <= 1
    assert len({answer.text for answer in heard}) >= 4, "partials grow while the speech goes on"
    assert word_errors(said.text, heard[-1].text.lower()) <= 1


async def test_stable_text_does_not_change(
    client: Client, asr_config: ModelConfig, recordings: dict[str, Recording]
) -> None:
    announced = 0
    for name in ("austen-0870", "austen-0920", "beckett", "cards-001"):
        heard = await client.recognize(asr_config, recordings[name].pcm)
        promise = ""
        for answer in heard:
            assert answer.text.startswith(promise), f"{name}: {promise!r} was stable"
            assert len(promise) <= answer.stable <= len(answer.text)
            promise = answer.text[: answer.stable]
            announced = max(announced, answer.stable) if not answer.final else announced
        assert heard[-1].stable == len(heard[-1].text)
    assert announced > 0, "nothing was ever stable before the end"


async def test_word_times_are_in_order_and_within_the_audio(
    client: Client, asr_config: ModelConfig, recordings: dict[str, Recording]
) -> None:
    said = recordings["austen-0870"]
    heard = 0
    for answer in await client.recognize(asr_config, said.pcm):
        heard += CHUNK
        assert " ".join(answer.words).split() == answer.text.split()
        assert len(answer.times) == len(answer.words)
        edges = [edge for times in answer.times for edge in times]
        assert edges == sorted(edges)
        if edges:
            assert edges[0] >= 0
            assert edges[-1] <= min(heard, len(said.pcm)) / 16 + 50


async def test_utterances_at_the_same_time_do_not_mix(
    client: Client, asr_config: ModelConfig, recordings: dict[str, Recording]
) -> None:
    names = ["goforward", "riva-sample", "austen-0880"]
    alone = {name: (await client.recognize(asr_config, recordings[name].pcm))[-1].text for name in names}
    together = await asyncio.gather(
        *(client.recognize(asr_config, recordings[name].pcm) for name in names * 2)
    )
    assert [answers[-1].text for answers in together] == [alone[name] for name in names * 2]


async def test_the_same_audio_gives_the_same_answers(
    client: Client, asr_config: ModelConfig, recordings: dict[str, Recording]
) -> None:
    said = recordings["austen-0920"].pcm
    first = await client.recognize(asr_config, said)
    await client.recognize(asr_config, recordings["beckett"].pcm[: 5 * CHUNK])
    again = await client.recognize(asr_config, said)
    assert [(a.text, a.stable, a.times) for a in again] == [(a.text, a.stable, a.times) for a in first]


async def test_start_twice_begins_anew(
    client: Client, asr_config: ModelConfig, recordings: dict[str, Recording]
) -> None:
    said = recordings["goforward"].pcm
    alone = (await client.recognize(asr_config, said))[-1].text
    async with client.utterance(asr_config) as utterance:
        for chunk, first, _ in chunks_of(recordings["riva-sample"].pcm):
            await utterance.send(chunk, start=first)
        for chunk, first, last in chunks_of(said):
            heard = await utterance.send(chunk, start=first, end=last)
    assert heard.text == alone


async def test_a_sequence_needs_its_start(client: Client, asr_config: ModelConfig) -> None:
    async with client.utterance(asr_config) as utterance:
        with pytest.raises(Refusal, match="must specify the START flag"):
            await utterance.send(QUIET)


async def test_after_the_end_a_new_start_is_needed(client: Client, asr_config: ModelConfig) -> None:
    async with client.utterance(asr_config) as utterance:
        await utterance.send(QUIET, start=True, end=True)
        with pytest.raises(Refusal, match="must specify the START flag"):
            await utterance.send(QUIET)
        assert (await utterance.send(QUIET, start=True, end=True)).final


async def test_no_audio_is_no_text(client: Client, asr_config: ModelConfig) -> None:
    heard = await client.recognize(asr_config, NOTHING)
    assert [(a.text, a.stable, a.final, a.words, a.times) for a in heard] == [("", 0, True, [], [])]


async def test_an_end_without_audio(
    client: Client, asr_config: ModelConfig, recordings: dict[str, Recording]
) -> None:
    said = recordings["goforward"]
    async with client.utterance(asr_config) as utterance:
        for chunk, first, _ in chunks_of(said.pcm):
            assert not (await utterance.send(chunk, start=first)).final
        heard = await utterance.send(NOTHING, end=True)
    assert heard.final
    assert word_errors(said.text, heard.text.lower()) <= 1


async def test_silence_and_nonsense_are_answered(client: Client, asr_config: ModelConfig) -> None:
    odd = np.array([1e30, 1e9, -40.0, 1e-42] * 500, np.float32)
    for pcm in (np.zeros(48_000, np.float32), odd, np.ones(1, np.float32)):
        heard = await client.recognize(asr_config, pcm)
        assert heard[-1].final


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
async def test_what_is_no_number_costs_its_own_utterance_alone(
    client: Client, asr_config: ModelConfig, recordings: dict[str, Recording], wrong: float
) -> None:
    said = recordings["goforward"]

    async def no_sound() -> None:
        with pytest.raises(Refusal, match="finite"):
            await client.recognize(asr_config, np.full(5_000, wrong, np.float32))

    refused = [asyncio.create_task(no_sound()) for _ in range(3)]
    heard = await client.recognize(asr_config, said.pcm)
    await asyncio.gather(*refused)
    assert word_errors(said.text, heard[-1].text.lower()) <= 1


async def test_a_string_names_a_sequence_too(client: Client, asr_config: ModelConfig) -> None:
    async with client.utterance(asr_config, "call-7/utterance-3") as utterance:
        await utterance.send(QUIET, start=True)
        assert (await utterance.send(QUIET, end=True)).final


async def test_an_unknown_language_is_refused_by_name(client: Client, asr_config: ModelConfig) -> None:
    with pytest.raises(Refusal, match="tlh-KX"):
        await client.recognize(asr_config, QUIET, language="tlh-KX")


async def test_its_own_languages_and_hints_are_taken(client: Client, asr_config: ModelConfig) -> None:
    for language in model_info(asr_config).languages:
        heard = await client.recognize(asr_config, QUIET, language=language, hints=("parley", "triton"))
        assert heard[-1].final


async def test_an_abandoned_sequence_is_given_up(
    client: Client, asr_config: ModelConfig, server: EmbeddedTriton
) -> None:
    idle_s = asr_config.sequence_batching.max_sequence_idle_microseconds / 1e6
    async with client.utterance(asr_config) as utterance:
        await utterance.send(QUIET, start=True)
        await asyncio.sleep(idle_s + 1.0)  # the server's clock decides, and it reports nothing
        with pytest.raises(Refusal, match="must specify the START flag"):
            await utterance.send(QUIET)
        assert (await utterance.send(QUIET, start=True, end=True)).final


async def test_many_utterances_at_once(
    client: Client, asr_config: ModelConfig, recordings: dict[str, Recording]
) -> None:
    said = recordings["cards-003"].pcm
    heard: list[list[Heard]] = await asyncio.gather(*(client.recognize(asr_config, said) for _ in range(8)))
    assert len({answers[-1].text for answers in heard}) == 1
    assert all(answers[-1].final for answers in heard)
