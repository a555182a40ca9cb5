"""Exported Whisper and Moonshine on the real Triton: utterances in parallel say what torch said to each alone."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from gateway.triton.channel import GRPCInferenceServiceStub, open_channel
from gateway.triton.errors import TritonError
from gateway.triton.infer import SequenceCall
from gateway.triton.stream import Drains
from tests.support.exported import changeable, exported
from tests.support.stack import Stack, skip_without_triton

pytestmark = [
    pytest.mark.stack,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),  # the first time, the models are made
]

ENGLISH, MANY, MOONSHINE = "asr_whisper_small", "asr_whisper_many", "asr_moonshine_small"
SERVED = "asr_whisper_served"
"""Its graphs are run by Triton itself, not by the front."""
CHUNK = 4_000
ANSWER_S = 30.0
Stub = tuple[GRPCInferenceServiceStub, Drains]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    many = changeable(
        exported("whisper", "multilingual=true", name=MANY), tmp_path_factory.mktemp("multilingual")
    )
    shutil.copytree(many / MANY, many / SERVED)
    config = many / SERVED / "config.pbtxt"
    chosen = 'parameters [\n  { key: "graphs_by", value: { string_value: "triton" } },'
    config.write_text(config.read_text().replace(MANY, SERVED).replace("parameters [", chosen, 1))
    return {ENGLISH: exported("whisper"), MANY: many, SERVED: many, MOONSHINE: exported("moonshine")}


@pytest.fixture(scope="module")
def triton(repositories: dict[str, Path]) -> Iterator[Stack]:
    skip_without_triton()
    models = [*(f"graph_{MANY}_{graph}" for graph in ("encoder", "decoder")), *repositories]
    with Stack(models, repositories=sorted(set(repositories.values()))) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_stub(triton: Stack) -> AsyncIterator[Stub]:
    channel = open_channel(triton.triton.grpc)
    drains = Drains()
    yield GRPCInferenceServiceStub(channel), drains
    await drains.close()
    await channel.close()


class Reference:
    """What torch said, kept with the model."""

    def __init__(self, repository: Path, model: str) -> None:
        with np.load(repository / model / "reference" / "front.npz") as told:
            numbers = range(sum(name.startswith("audio_") for name in told.files))
            self.audios = [told[f"audio_{at}"] for at in numbers]
            self.texts = [str(told[f"text_{at}"]) for at in numbers]
            self.languages = [str(told.get(f"language_{at}", "")) for at in numbers]


async def recognise(stub: Stub, model: str, audio: NDArray[np.float32], language: str) -> str:
    """The last transcript; word times are in order and within the audio."""
    call = SequenceCall(stub[0], model, drains=stub[1], decoupled=True)
    chunks = [audio[at : at + CHUNK] for at in range(0, len(audio), CHUNK)]
    try:
        for at, chunk in enumerate(chunks):
            told = await call.infer(
                chunk,
                start=at == 0,
                end=at == len(chunks) - 1,
                language=language if at == 0 else "",
                deadline_s=ANSWER_S,
            )
        assert bool(told["IS_FINAL"].reshape(-1)[0])
        times = told["WORD_TIMES"].reshape(-1)
        assert (np.diff(times) >= 0).all()
        assert times.max(initial=0) <= len(audio) / 16
        return str(told["TRANSCRIPT"].reshape(-1)[0])
    finally:
        call.give_up()


@pytest.mark.parametrize("model", [ENGLISH, MANY, SERVED, MOONSHINE])
async def test_utterances_in_parallel_say_what_torch_said_to_each(
    open_stub: Stub, repositories: dict[str, Path], model: str
) -> None:
    """Of the multilingual model each in its own language."""
    reference = Reference(repositories[model], model)
    assert len(set(reference.texts)) == 3
    order = [0, 1, 2, 2, 0, 1]
    told = await asyncio.gather(
        *(recognise(open_stub, model, reference.audios[at], reference.languages[at]) for at in order)
    )
    assert told == [reference.texts[at] for at in order]


async def test_another_language_says_something_else_and_one_that_is_not_there_is_refused(
    open_stub: Stub, repositories: dict[str, Path]
) -> None:
    audio = Reference(repositories[MANY], MANY).audios[1]
    asked = ["en-US", "de-DE", "es", "fr"]
    told = await asyncio.gather(*(recognise(open_stub, MANY, audio, language) for language in asked))
    assert len(set(told)) >= 3
    with pytest.raises(TritonError, match=r"language ja is not available.* de, en, es, fr"):
        await recognise(open_stub, MANY, audio, "ja")
