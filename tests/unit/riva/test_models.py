"""Which model a request means."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest

from gateway.riva.errors import Refused
from gateway.riva.models import ASR, TTS, SpeechModels
from gateway.triton.errors import TritonUnavailable
from gateway.triton.model_info import ModelInfo
from tests.support.virtual_time import run_virtual
from tests.unit.riva.parts import FakeAsr, FakeFleet, FakeRepository, FakeTts, Notice, model


def speech(repository: FakeRepository) -> SpeechModels:
    return SpeechModels(FakeFleet(repository, FakeAsr(), FakeTts(Notice())))


async def recogniser(models: SpeechModels, name: str, language: str, kind: str = "online") -> str:
    found = await models.recogniser(name, language, kind)
    found.release()
    return found.info.name


async def voice_model(models: SpeechModels, voice: str, language: str) -> ModelInfo:
    found = await models.voice(voice, language)
    found.release()
    return found.info


def test_the_default_model_comes_first_then_those_with_a_gpu() -> None:
    async def scenario() -> None:
        models = speech(
            FakeRepository(
                model("asr_small"),
                model("asr_big", needs_gpu=True),
                model("asr_ours", default=True),
                model("vad_x"),
            )
        )
        await models.refresh()
        assert [m.name for m in models.ready(ASR)] == ["asr_ours", "asr_big", "asr_small"]
        assert models.ready(TTS) == []

    run_virtual(scenario())


@pytest.mark.parametrize("language", ["en-US", "en-us", "en_US", "en", ""])
def test_languages_that_fit(language: str) -> None:
    async def scenario() -> None:
        models = speech(FakeRepository(model("asr_de", languages=("de-DE",)), model("asr_en")))
        assert await recogniser(models, "asr_en", language) == "asr_en"

    run_virtual(scenario())


def test_a_model_of_a_whole_language_serves_its_regions() -> None:
    async def scenario() -> None:
        models = speech(FakeRepository(model("asr_en", languages=("en",))))
        assert await recogniser(models, "", "en-GB") == "asr_en"

    run_virtual(scenario())


@pytest.mark.parametrize(
    ("name", "language", "kind"),
    [
        ("", "ru-RU", "online"),
        ("", "en-GB", "offline"),
        ("asr_x", "en-US", "online"),
        ("tts_a", "", "online"),
    ],
)
def test_unknown_language_or_model_is_refused_in_rivas_words(name: str, language: str, kind: str) -> None:
    async def scenario() -> None:
        models = speech(FakeRepository(model("asr_en"), model("tts_a")))
        with pytest.raises(Refused) as refusal:
            await recogniser(models, name, language, kind)
        assert str(refusal.value) == f"Error: Unavailable model requested. Lang: {language}, Type: {kind}"
        assert refusal.value.code is grpc.StatusCode.INVALID_ARGUMENT

    run_virtual(scenario())


def test_no_model_at_all_is_unavailable_and_says_what_to_do() -> None:
    async def scenario() -> None:
        models = speech(FakeRepository(model("tts_a")))
        with pytest.raises(Refused, match="load one") as refusal:
            await recogniser(models, "", "en-US", "online")
        assert refusal.value.code is grpc.StatusCode.UNAVAILABLE

    run_virtual(scenario())


@pytest.mark.parametrize(
    ("voice", "found"),
    [
        ("", ""),
        ("flite", ""),
        ("tts_flite", ""),
        ("awb", "awb"),
        ("flite.awb", "awb"),
        ("tts_flite.slt", "slt"),
    ],
)
def test_voice_names(voice: str, found: str) -> None:
    async def scenario() -> None:
        models = speech(FakeRepository(model("tts_flite", voices=("slt", "awb"))))
        speaker = await models.voice(voice, "en-US")
        assert speaker._held.voice_inputs() == ({"VOICE": np.array([found], object)} if found else {})

    run_virtual(scenario())


def test_a_voice_is_looked_for_in_every_model_of_its_language() -> None:
    async def scenario() -> None:
        espeak = model(
            "tts_espeak",
            languages=("en-US", "de-DE"),
            voices=("en", "de"),
            voice_languages=("en-US", "de-DE"),
        )
        models = speech(FakeRepository(espeak, model("tts_flite", voices=("slt",), default=True)))
        assert (await voice_model(models, "", "en-US")).name == "tts_flite"
        assert (await voice_model(models, "", "de-DE")).name == "tts_espeak"
        assert (await voice_model(models, "espeak.de", "de-DE")).name == "tts_espeak"
        with pytest.raises(
            Refused, match=r"^Model is not available on server: Voice de for language en-US not"
        ):
            await models.voice("de", "en-US")

    run_virtual(scenario())


def test_known_models_cost_no_look_and_a_miss_costs_one() -> None:
    async def scenario() -> None:
        repository = FakeRepository(model("asr_en"))
        models = speech(repository)
        for _ in range(10):
            await recogniser(models, "", "en-US", "online")
        assert repository.looks == 1
        await asyncio.sleep(1)
        repository.models["asr_de"] = model("asr_de", languages=("de-DE",))
        assert await recogniser(models, "", "de-DE") == "asr_de"
        assert repository.looks == 2
        for _ in range(10):
            with pytest.raises(Refused):
                await recogniser(models, "", "fr-FR", "online")
        assert repository.looks == 2, "misses in a row share a look"

    run_virtual(scenario())


def test_many_first_requests_share_one_look() -> None:
    async def scenario() -> None:
        repository = FakeRepository(model("asr_en"))
        models = speech(repository)
        await asyncio.gather(*(recogniser(models, "", "en-US", "online") for _ in range(20)))
        assert repository.looks == 1

    run_virtual(scenario())


def test_a_triton_that_does_not_answer_has_nothing_ready() -> None:
    async def scenario() -> None:
        repository = FakeRepository(model("asr_en"))
        models = speech(repository)
        await models.refresh()
        repository.failure = TritonUnavailable("down")
        with pytest.raises(TritonUnavailable):
            await models.refresh()
        assert models.ready(ASR) == []

    run_virtual(scenario())


def test_every_way_out_lets_go_of_the_model() -> None:
    async def scenario() -> None:
        fleet = FakeFleet(FakeRepository(model("asr_en")), FakeAsr(), FakeTts(Notice()))
        models = SpeechModels(fleet)
        with pytest.raises(Refused):
            await models.recogniser("", "ru-RU", "online")
        assert not fleet.held
        found = await models.recogniser("", "en-US", "online")
        assert len(fleet.held) == 1
        found.release()
        assert not fleet.held

    run_virtual(scenario())
