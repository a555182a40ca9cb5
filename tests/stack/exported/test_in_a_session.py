"""Exported models in the running stack: named in the settings, used by everybody's official clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
import riva.client
from numpy.typing import NDArray

from tests.stack.exported.test_proofs import front_of
from tests.stack.test_cli import Running, start, stop
from tests.support.exported import exported

pytestmark = pytest.mark.stack
EARS, MOUTH = "fastconformer", "fastspeech2"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`parley up` over two repositories that hold nothing but exported models."""
    ears, mouth = exported(EARS), exported(MOUTH)
    chosen = {
        "PARLEY_TRITON__REPOSITORIES": json.dumps([str(ears), str(mouth)]),
        "PARLEY_ASR__MODEL": front_of(ears).name,
        "PARLEY_TTS__MODEL": front_of(mouth).name,
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in chosen.items():
            environment.setenv(name, value)
        running = start(tmp_path_factory.mktemp("session"), "127.0.0.1:0")
    try:
        yield running
    finally:
        assert stop(running) == 0


def reference(family: str) -> dict[str, NDArray[Any]]:
    with np.load(front_of(exported(family)) / "reference" / "front.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.timeout(600)
def test_riva_clients_hear_with_an_exported_recogniser(stack: Running) -> None:
    told = reference(EARS)
    audio = (told["audio_0"] * 32_767).astype("<i2").tobytes()
    service = riva.client.ASRService(riva.client.Auth(uri=stack.endpoints["riva"]))
    config = riva.client.StreamingRecognitionConfig(
        config=riva.client.RecognitionConfig(
            encoding=riva.client.AudioEncoding.LINEAR_PCM,
            sample_rate_hertz=16_000,
            language_code="en-US",
            model=front_of(exported(EARS)).name,
            max_alternatives=1,
        ),
        interim_results=True,
    )
    chunks = [audio[at : at + 5_120] for at in range(0, len(audio), 5_120)]
    answers = list(service.streaming_response_generator(chunks, config))
    finals = [r.alternatives[0].transcript for a in answers for r in a.results if r.is_final]
    assert finals
    assert words("".join(finals))


def words(text: str) -> list[str]:
    return text.lower().split()


@pytest.mark.timeout(600)
def test_openai_clients_speak_with_an_exported_voice(stack: Running) -> None:
    client = openai.OpenAI(base_url=stack.endpoints["http"] + "/v1", api_key="none")
    name = front_of(exported(MOUTH)).name
    assert name in {model.id for model in client.models.list()}
    spoken = client.audio.speech.create(
        model=name, voice="default", input="The train leaves at nine.", response_format="pcm"
    )
    samples = np.frombuffer(spoken.content, "<i2").astype(np.float32) / 32_768
    assert len(samples) > 0.2 * 24_000
    assert np.sqrt(np.mean(samples**2)) > 0.01
