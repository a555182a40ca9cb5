"""RivaSpeechSynthesis over grpc.aio, the voice scripted."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import soundfile
from riva.client.proto import riva_tts_pb2 as rtts

from gateway.triton.errors import TritonError, TritonTimeout, TritonUnavailable
from tests.unit.riva.parts import Rig, loud, model

PCM, OPUS = 1, 4


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig().serve() as running:
        yield running


def request(text: str = "one two three", **changed: Any) -> rtts.SynthesizeSpeechRequest:
    fields: dict[str, Any] = {
        "text": text,
        "language_code": "en-US",
        "encoding": PCM,
        "sample_rate_hz": 16_000,
    }
    return rtts.SynthesizeSpeechRequest(**fields | changed)


async def refusal(rig: Rig, bad: rtts.SynthesizeSpeechRequest) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as unary:
        await rig.tts_stub.Synthesize(bad)
    with pytest.raises(grpc.aio.AioRpcError) as online:
        async for _ in rig.tts_stub.SynthesizeOnline(iter([bad])):
            pass
    assert unary.value.code() is online.value.code()
    assert unary.value.details() == online.value.details()
    assert "Traceback" not in (unary.value.details() or "")
    return unary.value


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 0])
async def test_synthesize_at_the_clients_rate(rig: Rig, rate: int) -> None:
    response = await rig.tts_stub.Synthesize(request(sample_rate_hz=rate, id={"value": "x"}))
    samples = np.frombuffer(response.audio, "<i2")
    assert abs(len(samples) - 0.3 * (rate or 16_000)) <= 8
    assert np.abs(samples).max() > 8_000
    assert response.meta.text == response.meta.processed_text == "one two three"
    assert response.id.value == "x"


async def test_online_is_the_same_audio_in_pieces(rig: Rig) -> None:
    whole = await rig.tts_stub.Synthesize(request(sample_rate_hz=44_100))
    rig.tts.hold = asyncio.Event()
    call = rig.tts_stub.SynthesizeOnline(iter([request(sample_rate_hz=44_100)]))
    first = await call.read()
    assert first.audio, "first TTS frame leaves before synthesis ends"
    assert first.meta.text == "one two three"
    rig.tts.hold.set()
    rest = b""
    while (response := await call.read()) is not grpc.aio.EOF:
        rest += response.audio
    assert first.audio + rest == whole.audio


async def test_several_texts_on_one_stream_in_order(rig: Rig) -> None:
    texts = [request("one two", id={"value": "1"}), request("three", id={"value": "2"})]
    responses = [r async for r in rig.tts_stub.SynthesizeOnline(iter(texts))]
    assert [r.id.value for r in responses] == ["1", "1", "2"]
    assert sum(len(r.audio) for r in responses) == 3 * 1_600 * 2
    assert [a["TEXT"] for a in rig.tts.asked] == [["one two"], ["three"]]


async def test_an_online_stream_without_text_ends_in_good_order(rig: Rig) -> None:
    assert [r async for r in rig.tts_stub.SynthesizeOnline(iter([]))] == []


@pytest.mark.parametrize("rate", [24_000, 44_100])
async def test_ogg_opus(rig: Rig, rate: int) -> None:
    response = await rig.tts_stub.Synthesize(request(encoding=OPUS, sample_rate_hz=rate))
    out, at = soundfile.read(io.BytesIO(response.audio))
    assert len(out) / at == pytest.approx(0.3, abs=0.03)
    online = [
        r
        async for r in rig.tts_stub.SynthesizeOnline(
            iter(
                [
                    request(encoding=OPUS, sample_rate_hz=rate),
                    request("four", encoding=OPUS, sample_rate_hz=rate),
                ]
            )
        )
    ]
    out, at = soundfile.read(io.BytesIO(b"".join(r.audio for r in online)))
    assert len(out) / at == pytest.approx(0.4, abs=0.03), "the texts make one Ogg stream"


async def test_word_times_where_the_model_knows_them(rig: Rig) -> None:
    response = await rig.tts_stub.Synthesize(request(enable_word_time_offsets=True))
    assert [(w.word, w.start_time, w.end_time) for w in response.meta.words] == [
        ("one", 0, 100),
        ("two", 100, 200),
        ("three", 200, 300),
    ]
    assert not (await rig.tts_stub.Synthesize(request())).meta.words


async def test_voice_language_style_and_speed_reach_the_model(rig: Rig) -> None:
    await rig.tts_stub.Synthesize(
        request(voice_name="a.bob", custom_configuration={"speed": "1.5", "style": "calm", "other": "x"})
    )
    assert rig.tts.asked[0] == {
        "model": "tts_a",
        "TEXT": ["one two three"],
        "VOICE": ["bob"],
        "LANGUAGE": ["en-US"],
        "SPEED": [1.5],
        "STYLE": ["calm"],
    }


async def test_ssml_is_spoken_without_its_markup(rig: Rig) -> None:
    said = await rig.tts_stub.Synthesize(request("<speak>one <prosody rate='slow'>two</prosody></speak>"))
    assert said.meta.processed_text == "one two"
    assert rig.tts.asked[0]["TEXT"] == ["one two"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"voice_name": "foo"},
            "Model is not available on server: Voice foo for language en-US not found. "
            "Please specify the voice name in your SynthesizeSpeechRequest.",
        ),
        (
            {"language_code": "ru-RU"},
            "Model is not available on server: Voice  for language ru-RU not found.",
        ),
        ({"sample_rate_hz": 2}, "Invalid sample rate 2 Hz"),
        ({"sample_rate_hz": 96_000}, "Invalid sample rate 96000 Hz"),
        ({"encoding": 3}, "LINEAR_PCM or OGGOPUS"),
        ({"text": "  "}, "the text is empty"),
        ({"text": "<speak></speak>"}, "the text is empty"),
        ({"text": "x" * 2_001}, "more than 2000"),
        ({"custom_dictionary": "word  w3:d"}, "tts_a does not support custom_dictionary"),
        ({"custom_dictionary": "word"}, "custom_dictionary is malformed"),
        ({"zero_shot_data": {"audio_prompt": b"x"}}, "tts_a does not support zero_shot_data"),
        ({"custom_configuration": {"speed": "fast"}}, "speed is 'fast'"),
        ({"custom_configuration": {"speed": "nan"}}, "speed is 'nan'"),
    ],
)
async def test_bad_requests_are_refused_with_what_to_do(rig: Rig, changed: dict[str, Any], says: str) -> None:
    error = await refusal(rig, request(**changed))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert says in str(error.details())
    assert rig.tts.asked == []


async def test_zero_shot_prompt_reaches_a_model_that_can_use_it() -> None:
    async with Rig(model("tts_clone", tags=("zero-shot",))).serve() as rig:
        prompt = {"audio_prompt": loud(4_000, 8_000).tobytes(), "encoding": PCM, "sample_rate_hz": 8_000}
        await rig.tts_stub.Synthesize(request(zero_shot_data=prompt))
        assert abs(len(rig.tts.asked[0]["REFERENCE_AUDIO"]) - 64_000) <= 32
        prompt["audio_prompt"] = loud(1_000, 8_000).tobytes()
        error = await refusal(rig, request(zero_shot_data=prompt))
        assert "1.0 seconds long: send 3 to 10 seconds" in str(error.details())


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (TritonTimeout("tts_a: silent"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (TritonError("tts_a: broke"), grpc.StatusCode.INTERNAL),
        (RuntimeError("secret"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_failures_of_the_model(rig: Rig, failure: Exception, code: grpc.StatusCode) -> None:
    rig.tts.script = [failure, failure, failure, failure]
    error = await refusal(rig, request())
    assert error.code() is code
    assert "secret" not in str(error.details())


async def test_a_model_that_went_away_before_its_first_audio_is_looked_for_again(rig: Rig) -> None:
    rig.tts.script = [TritonUnavailable("unloaded")]
    assert (await rig.tts_stub.Synthesize(request())).audio
    rig.tts.script = [TritonUnavailable("down")] * 4
    error = await refusal(rig, request())
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_client_cancel_cancels_the_model(rig: Rig) -> None:
    rig.tts.hold = asyncio.Event()
    call = rig.tts_stub.SynthesizeOnline(iter([request()]))
    await call.read()
    call.cancel()
    await rig.notice.until(lambda: rig.tts.cancelled == 1)
    unary = rig.tts_stub.Synthesize(request())
    await rig.notice.until(lambda: len(rig.tts.asked) == 2)
    unary.cancel()
    await rig.notice.until(lambda: rig.tts.cancelled == 2)
    assert rig.tts.finished == 0


async def test_config_lists_voices_as_the_client_reads_them() -> None:
    espeak = model(
        "tts_e",
        languages=("en-US", "de-DE"),
        voices=("en", "en2", "de"),
        voice_languages=("en-US", "en-US", "de-DE"),
    )
    async with Rig(espeak, model("tts_f", voices=("slt",), default=True)).serve() as rig:
        response = await rig.tts_stub.GetRivaSynthesisConfig(rtts.RivaSynthesisConfigRequest())
        listed = [
            (c.parameters["voice_name"], c.parameters["language_code"], c.parameters["subvoices"])
            for c in response.model_config
        ]
        assert listed == [("f", "en-US", "slt:0"), ("e", "en-US", "en:0,en2:1"), ("e", "de-DE", "de:0")]
        for base, language, subvoices in listed:
            for subvoice in subvoices.split(","):
                name = f"{base}.{subvoice.split(':')[0]}"
                said = await rig.tts_stub.Synthesize(request(voice_name=name, language_code=language))
                assert said.audio, "every voice that is listed can be asked for"
        with pytest.raises(grpc.aio.AioRpcError, match="model foo is not available"):
            await rig.tts_stub.GetRivaSynthesisConfig(rtts.RivaSynthesisConfigRequest(model_name="foo"))
