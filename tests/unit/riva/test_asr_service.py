"""RivaSpeechRecognition over grpc.aio, the model scripted."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeAlias

import grpc
import grpc.aio
import numpy as np
import pytest
import soundfile
from riva.client.proto import riva_asr_pb2 as rasr
from riva.client.proto import riva_asr_pb2_grpc

from gateway.audio.pcm import Int16
from gateway.triton.errors import ModelFull, SequenceLost, TritonError, TritonTimeout, TritonUnavailable
from tests.unit.riva.parts import Rig, audio, config, loud, model, quiet, streaming

Request: TypeAlias = rasr.StreamingRecognizeRequest


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig().serve() as running:
        yield running
    assert running.asr.left_open == 0, "every sequence was ended or given up"
    assert not running.vad.open_streams


async def stream(rig: Rig, *requests: Request) -> list[rasr.StreamingRecognizeResponse]:
    call = rig.asr_stub.StreamingRecognize(iter(requests), timeout=20)
    return [response async for response in call]


async def refusal(rig: Rig, *requests: Request) -> grpc.RpcError:
    """Through the synchronous client, as the official one is: grpc.aio's may report a failed write instead."""

    def ask() -> grpc.RpcError:
        with grpc.insecure_channel(rig.address) as channel:
            call = riva_asr_pb2_grpc.RivaSpeechRecognitionStub(channel).StreamingRecognize(
                iter(requests), timeout=20
            )
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
        return caught.value

    error = await asyncio.to_thread(ask)
    assert "Traceback" not in (error.details() or "")
    return error


def finals(responses: Sequence[rasr.StreamingRecognizeResponse]) -> list[str]:
    return [r.alternatives[0].transcript for x in responses for r in x.results if r.is_final]


def words_said(responses: Sequence[rasr.StreamingRecognizeResponse]) -> list[str]:
    return [text.strip() for text in finals(responses)]


async def test_partials_with_stability_then_a_final_with_the_riva_fields(rig: Rig) -> None:
    responses = await stream(
        rig, streaming(enable_word_time_offsets=True), *[audio(loud(160)) for _ in range(8)]
    )
    results = [result for response in responses for result in response.results]
    assert all(result.channel_tag == 1 for result in results)
    partials = [response for response in responses if not response.results[0].is_final]
    assert partials
    joined = ["".join(r.alternatives[0].transcript for r in p.results if r.alternatives) for p in partials]
    assert joined[-1] == "one two three four"
    split = [[round(r.stability, 2) for r in p.results] for p in partials]
    assert [0.9, 0.1] in split, "a stable part and one that may change"
    final = results[-1]
    assert final.is_final
    assert final.stability == 0
    assert final.audio_processed == pytest.approx(1.28)
    best = final.alternatives[0]
    assert best.transcript.strip() == "one two three four"
    assert [(w.word, w.start_time, w.end_time) for w in best.words][:2] == [
        ("one", 0, 319),
        ("two", 320, 639),
    ]
    assert all(not r.alternatives[0].words for r in results[:-1] if r.alternatives)


async def test_interim_results_off_gives_finals_only(rig: Rig) -> None:
    responses = await stream(
        rig, streaming(interim=False), audio(loud(640)), audio(quiet(1_600)), audio(loud(320))
    )
    assert all(result.is_final for response in responses for result in response.results)
    assert words_said(responses) == ["one two", "one"]


async def test_no_word_times_unless_asked_for(rig: Rig) -> None:
    responses = await stream(rig, streaming(), audio(loud(640)))
    assert not responses[-1].results[0].alternatives[0].words


async def test_endpointing_settings_of_the_client_are_kept(rig: Rig) -> None:
    speech = [audio(loud(640)), audio(quiet(640)), audio(loud(640))]
    assert words_said(await stream(rig, streaming(), *speech)) == ["one two three four"]
    short = rasr.EndpointingConfig(stop_history=320)
    assert words_said(await stream(rig, streaming(endpointing_config=short), *speech)) == ["one two"] * 2


@pytest.mark.parametrize(
    "off",
    [
        {"custom_configuration": {"parley.endpointing": "off"}},
        {"endpointing_config": rasr.EndpointingConfig(stop_history=0)},
        {"endpointing_config": rasr.EndpointingConfig(stop_history=2**31 - 1)},
    ],
)
async def test_endpointing_can_be_switched_off(rig: Rig, off: dict[str, Any]) -> None:
    responses = await stream(rig, streaming(**off), audio(loud(640)), audio(quiet(5_000)), audio(loud(640)))
    assert words_said(responses) == ["one two three four"]
    assert len(rig.asr.calls) == 1


async def test_first_pass_of_the_end_is_a_partial_with_stability_1(rig: Rig) -> None:
    two_pass = rasr.EndpointingConfig(stop_history=800, stop_history_eou=320)
    responses = await stream(
        rig, streaming(endpointing_config=two_pass), audio(loud(640)), audio(quiet(1_600))
    )
    stabilities = [r.results[0].stability for r in responses]
    assert stabilities.count(1.0) == 1
    assert stabilities.index(1.0) == len(responses) - 2


async def test_force_eou_ends_the_utterance(rig: Rig) -> None:
    responses = await stream(
        rig,
        streaming(),
        audio(loud(640), runtime_config={"force_eou": "true"}),
        audio(loud(320)),
        Request(runtime_config={"force_eou": "true"}),
        audio(loud(320)),
    )
    assert words_said(responses) == ["one two", "one", "one"]


async def test_id_is_echoed(rig: Rig) -> None:
    first = streaming()
    first.id.value = "a"
    later = audio(loud(640))
    later.id.value = "b"
    responses = await stream(rig, first, audio(loud(640)), later)
    ids = [response.id.value for response in responses]
    assert (ids[0], ids[-1]) == ("a", "b")


async def test_hints_and_language_reach_the_model(rig: Rig) -> None:
    contexts = [
        rasr.SpeechContext(phrases=["AntiBERTa", " "], boost=20),
        rasr.SpeechContext(phrases=["ABlooper"]),
    ]
    await stream(rig, streaming(speech_contexts=contexts), audio(loud(320)))
    assert rig.asr.calls[0].hints == ("AntiBERTa", "ABlooper")
    assert rig.asr.calls[0].language == "en-US"


async def test_what_no_model_here_offers_is_accepted_and_ignored(rig: Rig) -> None:
    responses = await stream(
        rig,
        streaming(
            verbatim_transcripts=True,
            profanity_filter=True,
            enable_automatic_punctuation=True,
            max_alternatives=5,
            diarization_config=rasr.SpeakerDiarizationConfig(enable_speaker_diarization=True),
            custom_configuration={"enable_vad_endpointing": "true"},
        ),
        audio(loud(640)),
    )
    assert words_said(responses) == ["one two"]


def container(samples: Int16, rate: int, kind: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "subtype", "rate"),
    [
        ("WAV", "PCM_16", 44_100),
        ("WAV", "PCM_24", 16_000),
        ("WAV", "ULAW", 8_000),
        ("WAV", "ALAW", 8_000),
        ("FLAC", "PCM_16", 22_050),
        ("OGG", "OPUS", 48_000),
    ],
)
async def test_files_as_they_are(rig: Rig, kind: str, subtype: str, rate: int) -> None:
    """The header lies in the first chunk, and the config says something else."""
    tone = (np.sign(np.sin(np.arange(rate * 2) * 2 * np.pi * 200 / rate)) * 12_000).astype(np.int16)
    data = container(tone, rate, kind, subtype)
    pieces = [Request(audio_content=data[i : i + 1_000]) for i in range(0, len(data), 1_000)]
    streamed = await stream(rig, streaming(encoding=0, sample_rate_hertz=16_000), *pieces)
    whole = await rig.asr_stub.Recognize(rasr.RecognizeRequest(config=config(encoding=0), audio=data))
    assert len(words_said(streamed)[0].split()) in (5, 6)
    assert whole.results[0].alternatives[0].transcript == finals(streamed)[0]
    assert streamed[-1].results[0].audio_processed == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize(("encoding", "subtype"), [(3, "ULAW"), (20, "ALAW")])
async def test_raw_g711_by_declared_encoding(rig: Rig, encoding: int, subtype: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, loud(1_000, 8_000), 8_000, format="RAW", subtype=subtype)
    responses = await stream(
        rig, streaming(encoding=encoding, sample_rate_hertz=8_000), Request(audio_content=file.getvalue())
    )
    assert words_said(responses) == ["one two three"]


async def test_odd_length_pcm_carries_the_odd_byte_over(rig: Rig) -> None:
    data = loud(640).tobytes()
    pieces = [Request(audio_content=data[i : i + 333]) for i in range(0, len(data), 333)]
    assert words_said(await stream(rig, streaming(), *pieces)) == ["one two"]


# ---- refusals ----------------------------------------------------------------------------------


async def test_non_config_first_message_is_invalid_argument(rig: Rig) -> None:
    for first in (audio(loud(100)), Request(), Request(runtime_config={"force_eou": "true"})):
        error = await refusal(rig, first, streaming())
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "first message of StreamingRecognize must hold streaming_config" in str(error.details())
    assert rig.asr.calls == []


async def test_a_refusal_reaches_a_client_that_is_still_writing(rig: Rig) -> None:
    """grpc.aio's client, whose failed write would hide the status."""
    for _ in range(20):
        call = rig.asr_stub.StreamingRecognize(
            iter([streaming(language_code="ru-RU"), *[audio(loud(20))] * 15])
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "Unavailable model requested" in str(caught.value.details())


async def test_a_refusal_reaches_a_client_that_waits(rig: Rig) -> None:
    call = rig.asr_stub.StreamingRecognize()
    await call.write(streaming(language_code="ru-RU"))
    with pytest.raises(grpc.aio.AioRpcError, match="Unavailable model requested"):
        await call.read()


async def test_second_config_is_refused(rig: Rig) -> None:
    error = await refusal(rig, streaming(), audio(loud(400)), streaming())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "configured already" in str(error.details())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"language_code": "ru-RU"}, "Error: Unavailable model requested. Lang: ru-RU, Type: online"),
        ({"model": "foo"}, "Error: Unavailable model requested. Lang: en-US, Type: online"),
        ({"encoding": 7}, "encoding 7 is unknown"),
        ({"sample_rate_hertz": 2}, "Invalid sample rate 2 Hz: use 8000 to 48000 Hz"),
        ({"sample_rate_hertz": 0}, "Invalid sample rate 0 Hz"),
        ({"encoding": 2}, "declared as FLAC"),
        ({"audio_channel_count": -1}, "must not be negative"),
        (
            {"audio_channel_count": 2, "enable_separate_recognition_per_channel": True},
            "send one stream per channel",
        ),
        ({"endpointing_config": rasr.EndpointingConfig(stop_threshold=2)}, "stop_threshold is 2"),
        ({"endpointing_config": rasr.EndpointingConfig(stop_history=-5)}, "stop_history is -5"),
        ({"endpointing_config": rasr.EndpointingConfig(stop_history_eou=900)}, "shorter than stop_history"),
        ({"speech_contexts": [rasr.SpeechContext(phrases=["x" * 300])]}, "speech_contexts hold at most"),
    ],
)
async def test_bad_configs_are_refused_with_what_to_do(rig: Rig, changed: dict[str, Any], says: str) -> None:
    error = await refusal(rig, streaming(**changed), audio(loud(640)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert says in str(error.details())


async def test_offline_refusal_names_its_type(rig: Rig) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="Lang: ru-RU, Type: offline"):
        await rig.asr_stub.Recognize(
            rasr.RecognizeRequest(config=config(language_code="ru-RU"), audio=b"\0\0")
        )


@pytest.mark.parametrize(
    ("failure", "code", "says"),
    [
        (
            TritonTimeout("asr_a: no answer within 5 s"),
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "did not answer in time",
        ),
        (
            TritonError("asr_a: engine broke"),
            grpc.StatusCode.INTERNAL,
            "the model failed: asr_a: engine broke",
        ),
        (
            ModelFull("asr_a: too many concurrent utterances: 64 are being recognised"),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "the model is busy, try again",
        ),
        (RuntimeError("secret"), grpc.StatusCode.INTERNAL, "its log says why"),
    ],
)
async def test_failures_of_the_model(rig: Rig, failure: Exception, code: grpc.StatusCode, says: str) -> None:
    rig.asr.script = [None, failure]
    error = await refusal(rig, streaming(), audio(loud(640)))
    assert error.code() is code
    assert says in str(error.details())
    assert "secret" not in str(error.details())
    rig.asr.script = []
    assert words_said(await stream(rig, streaming(), audio(loud(320)))) == ["one"], "the service lives"


async def test_interrupted_triton_is_retried_once_and_then_unavailable(rig: Rig) -> None:
    rig.asr.script = [None, TritonUnavailable("restarting")]
    assert words_said(await stream(rig, streaming(), audio(loud(640)))) == ["one two"]
    rig.asr.script = [None, TritonUnavailable("down"), TritonUnavailable("down")]
    error = await refusal(rig, streaming(), audio(loud(640)))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "try again" in str(error.details())


async def test_must_specify_the_start_flag_means_start_again_and_replay(rig: Rig) -> None:
    rig.asr.script = [None, None, SequenceLost("gone")]
    assert words_said(await stream(rig, streaming(), audio(loud(1_280)))) == ["one two three four"]
    assert len(rig.asr.calls) == 2


async def test_no_recogniser_loaded_is_unavailable() -> None:
    async with Rig(model("tts_a")).serve() as rig:
        error = await refusal(rig, streaming(), audio(loud(100)))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "load one" in str(error.details())


# ---- lifetime and load -------------------------------------------------------------------------


async def test_client_cancel_releases_the_sequence(rig: Rig) -> None:
    call = rig.asr_stub.StreamingRecognize()
    await call.write(streaming())
    await call.write(audio(loud(640)))
    await rig.notice.until(lambda: bool(rig.asr.calls) and len(rig.asr.calls[0].chunks) == 4)
    rig.asr.gate = asyncio.Event()
    await call.write(audio(loud(640)))
    await rig.notice.until(lambda: len(rig.asr.calls[0].chunks) == 5)
    call.cancel()
    await rig.notice.until(lambda: rig.asr.calls[0].given_up)


async def test_backpressure_a_slow_model_stops_the_reading(rig: Rig) -> None:
    rig.asr.gate = asyncio.Event()
    call = rig.asr_stub.StreamingRecognize()
    await call.write(streaming())
    written = 0
    with contextlib.suppress(TimeoutError):
        while written < 5_000:
            async with asyncio.timeout(0.5):
                await call.write(audio(loud(160)))
            written += 1
    assert written < 200, "a few messages lie in the transport, the rest waits in the client"
    assert len(rig.asr.calls[0].chunks) == 1
    await rig.notice.until(lambda: rig.asr.calls[0].over)


async def test_a_slow_stream_does_not_hold_up_another(rig: Rig) -> None:
    slow = rig.asr_stub.StreamingRecognize()
    await slow.write(streaming())
    await slow.write(audio(loud(160)))
    await rig.notice.until(lambda: bool(rig.asr.calls))
    many = await asyncio.gather(*(stream(rig, streaming(), audio(loud(640))) for _ in range(20)))
    assert all(words_said(responses) == ["one two"] for responses in many)
    slow.cancel()
    await rig.notice.until(lambda: rig.asr.left_open == 0)


# ---- unary -------------------------------------------------------------------------------------


async def test_recognize_gives_a_result_per_utterance(rig: Rig) -> None:
    speech = np.concatenate((loud(640), quiet(2_000), loud(960), quiet(500)))
    request = rasr.RecognizeRequest(config=config(enable_word_time_offsets=True), audio=speech.tobytes())
    request.id.value = "r1"
    response = await rig.asr_stub.Recognize(request)
    assert [r.alternatives[0].transcript.strip() for r in response.results] == ["one two", "one two three"]
    assert response.id.value == "r1"
    assert response.results[1].alternatives[0].words[0].start_time == pytest.approx(2_640, abs=2)
    joined = "".join(r.alternatives[0].transcript for r in response.results)
    assert joined.split() == ["one", "two", "one", "two", "three"], "clients join them as they are"


async def test_recognize_refuses_a_damaged_file(rig: Rig) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="ends inside its header") as caught:
        await rig.asr_stub.Recognize(rasr.RecognizeRequest(config=config(), audio=b"RIFF\0\0\0\0WAVEfmt "))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_recognize_of_nothing_gives_nothing(rig: Rig) -> None:
    response = await rig.asr_stub.Recognize(rasr.RecognizeRequest(config=config()))
    assert not response.results


async def test_config_lists_models_as_the_client_reads_them(rig: Rig) -> None:
    response = await rig.asr_stub.GetRivaSpeechRecognitionConfig(rasr.RivaSpeechRecognitionConfigRequest())
    kinds = {
        (c.model_name, c.parameters["type"], c.parameters["language_code"]) for c in response.model_config
    }
    assert kinds == {("asr_a", "online", "en-US"), ("asr_a", "offline", "en-US")}
    one = await rig.asr_stub.GetRivaSpeechRecognitionConfig(
        rasr.RivaSpeechRecognitionConfigRequest(model_name="asr_a")
    )
    assert len(one.model_config) == 2
    with pytest.raises(grpc.aio.AioRpcError, match="model foo is not available"):
        await rig.asr_stub.GetRivaSpeechRecognitionConfig(
            rasr.RivaSpeechRecognitionConfigRequest(model_name="foo")
        )
