"""Which model a request means."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from gateway.riva.catalog import ASR, TTS, Catalog, voices_of
from gateway.riva.errors import Refused
from gateway.triton.errors import TritonUnavailable
from tests.support.virtual_time import run_virtual
from tests.unit.riva.parts import FakeRepository, model


def test_the_default_model_comes_first_then_those_with_a_gpu() -> None:
    async def scenario() -> None:
        catalog = Catalog(
            FakeRepository(
                model("asr_small"),
                model("asr_big", needs_gpu=True),
                model("asr_ours", default=True),
                model("vad_x"),
            )
        )
        await catalog.refresh()
        assert [m.name for m in catalog.ready(ASR)] == ["asr_ours", "asr_big", "asr_small"]
        assert catalog.ready(TTS) == []

    run_virtual(scenario())


@pytest.mark.parametrize("language", ["en-US", "en-us", "en_US", "en", ""])
def test_languages_that_fit(language: str) -> None:
    async def scenario() -> None:
        catalog = Catalog(FakeRepository(model("asr_de", languages=("de-DE",)), model("asr_en")))
        assert (await catalog.recogniser("asr_en", language, "online")).name == "asr_en"

    run_virtual(scenario())


def test_a_model_of_a_whole_language_serves_its_regions() -> None:
    async def scenario() -> None:
        catalog = Catalog(FakeRepository(model("asr_en", languages=("en",))))
        assert (await catalog.recogniser("", "en-GB", "online")).name == "asr_en"

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
        catalog = Catalog(FakeRepository(model("asr_en"), model("tts_a")))
        with pytest.raises(Refused) as refusal:
            await catalog.recogniser(name, language, kind)
        assert str(refusal.value) == f"Error: Unavailable model requested. Lang: {language}, Type: {kind}"
        assert refusal.value.code is grpc.StatusCode.INVALID_ARGUMENT

    run_virtual(scenario())


def test_no_model_at_all_is_unavailable_and_says_what_to_do() -> None:
    async def scenario() -> None:
        catalog = Catalog(FakeRepository(model("tts_a")))
        with pytest.raises(Refused, match="load one") as refusal:
            await catalog.recogniser("", "en-US", "online")
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
        catalog = Catalog(FakeRepository(model("tts_flite", voices=("slt", "awb"))))
        assert (await catalog.voice(voice, "en-US")).name == found

    run_virtual(scenario())


def test_a_voice_is_looked_for_in_every_model_of_its_language() -> None:
    async def scenario() -> None:
        espeak = model(
            "tts_espeak",
            languages=("en-US", "de-DE"),
            voices=("en", "de"),
            voice_languages=("en-US", "de-DE"),
        )
        catalog = Catalog(FakeRepository(espeak, model("tts_flite", voices=("slt",), default=True)))
        assert (await catalog.voice("", "en-US")).model.name == "tts_flite"
        assert (await catalog.voice("", "de-DE")).model.name == "tts_espeak"
        assert (await catalog.voice("espeak.de", "de-DE")).name == "de"
        assert voices_of(espeak, "de-DE") == ["de"]
        with pytest.raises(
            Refused, match=r"^Model is not available on server: Voice de for language en-US not"
        ):
            await catalog.voice("de", "en-US")

    run_virtual(scenario())


def test_known_models_cost_no_look_and_a_miss_costs_one() -> None:
    async def scenario() -> None:
        repository = FakeRepository(model("asr_en"))
        catalog = Catalog(repository)
        for _ in range(10):
            await catalog.recogniser("", "en-US", "online")
        assert repository.looks == 1
        await asyncio.sleep(1)
        repository.models["asr_de"] = model("asr_de", languages=("de-DE",))
        assert (await catalog.recogniser("", "de-DE", "online")).name == "asr_de"
        assert repository.looks == 2
        for _ in range(10):
            with pytest.raises(Refused):
                await catalog.recogniser("", "fr-FR", "online")
        assert repository.looks == 2, "misses in a row share a look"

    run_virtual(scenario())


def test_many_first_requests_share_one_look() -> None:
    async def scenario() -> None:
        repository = FakeRepository(model("asr_en"))
        catalog = Catalog(repository)
        await asyncio.gather(*(catalog.recogniser("", "en-US", "online") for _ in range(20)))
        assert repository.looks == 1

    run_virtual(scenario())


def test_a_triton_that_does_not_answer_has_nothing_ready() -> None:
    async def scenario() -> None:
        repository = FakeRepository(model("asr_en"))
        catalog = Catalog(repository)
        await catalog.refresh()
        repository.failure = TritonUnavailable("down")
        with pytest.raises(TritonUnavailable):
            await catalog.refresh()
        assert catalog.ready(ASR) == []

    run_virtual(scenario())


def test_a_forgotten_model_is_offered_again_after_a_look() -> None:
    async def scenario() -> None:
        catalog = Catalog(FakeRepository(model("tts_a"), model("tts_b")))
        assert (await catalog.voice("", "en-US")).model.name == "tts_a"
        catalog.forget("tts_a")
        assert (await catalog.voice("", "en-US")).model.name == "tts_b"
        await catalog.refresh()
        assert (await catalog.voice("", "en-US")).model.name == "tts_a"

    run_virtual(scenario())
