"""What a synthesiser says there is to choose from, and the choice of it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.settings import TtsSettings
from gateway.speak.riva_tts import RivaSynthesizer
from gateway.speak.tts import TtsError, VoiceModel
from tests.unit.riva.parts import Rig, model


async def test_models_and_voices_of_a_riva_service_and_a_model_by_its_voice() -> None:
    german = model(
        "tts_b", languages=("en-US", "de-DE"), voices=("eve", "udo"), voice_languages=("en-US", "de-DE")
    )
    async with Rig(model("asr_a"), model("tts_a"), german).serve() as rig:
        synthesizer = RivaSynthesizer(TtsSettings(kind="riva", uri=rig.address, sample_rate=16_000))
        try:
            assert await synthesizer.models() == [
                VoiceModel("tts_a", ("en-US",), ("a.ann", "a.bob"), ("en-US", "en-US")),
                VoiceModel("tts_b", ("en-US", "de-DE"), ("b.eve", "b.udo"), ("en-US", "de-DE")),
            ]
            choices: list[dict[str, Any]] = [
                {"model": "tts_b"},
                {"model": "tts_b", "language": "de-DE"},
                {"voice": "a.bob", "model": "tts_a"},
            ]
            for wanted in choices:
                assert [chunk async for chunk in synthesizer.synthesize("Hello.", **wanted)]
            with pytest.raises(TtsError, match="no model tts_c") as caught:
                await anext(synthesizer.synthesize("Hello.", model="tts_c"))
            assert not caught.value.unwell
        finally:
            await synthesizer.close()
    assert [(asked["model"], asked["VOICE"]) for asked in rig.tts.asked] == [
        ("tts_b", ["eve"]),
        ("tts_b", ["udo"]),
        ("tts_a", ["bob"]),
    ]
