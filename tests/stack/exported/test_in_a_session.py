"""Exported models in the running stack: named in the settings, used by everybody's official clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
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
    ears, mouth = exported(EARS), mouth_repository()
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


def mouth_repository() -> Path:
    """Of a voice that asks its server for its graphs."""
    return exported(MOUTH, "graphs_by=triton", name="tts_served")


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
    name = front_of(mouth_repository()).name
    assert name in {model.id for model in client.models.list()}
    spoken = client.audio.speech.create(
        model=name, voice="default", input="The train leaves at nine.", response_format="pcm"
    )
    samples = np.frombuffer(spoken.content, "<i2").astype(np.float32) / 32_768
    assert len(samples) > 0.2 * 24_000
    assert np.sqrt(np.mean(samples**2)) > 0.01


@pytest.mark.timeout(600)
def test_graphs_that_a_front_asks_its_server_for_come_and_stay_with_it(stack: Running) -> None:
    listed = stack.parley("models", "list", "--json")
    models = {one["name"]: one for one in json.loads(listed.stdout)["models"]}
    graphs = [name for name in models if name.startswith("graph_tts_served_")]
    assert len(graphs) == 3
    assert {models[name]["state"] for name in graphs} == {"ready"}
    assert {models[name]["why"] for name in graphs} == {"needed"}
    refused = stack.parley("models", "unload", graphs[0])
    assert refused.returncode == 1
    assert "is called by tts_served: unload that first" in refused.stdout
