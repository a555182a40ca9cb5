"""Exported streaming recognisers on the real Triton: many utterances at once say what torch said to each alone."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
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

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

FAST, ZIP = "asr_fastconformer_small", "asr_zipformer_small"
SERVED = "asr_served"
"""The step graph run by Triton itself, not by the front."""
SIZES = {"smallest": 160, "usual": 2_560, "three times": 7_680, "random": 0}
ANSWER_S = 20.0


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    fast = changeable(exported("fastconformer"), tmp_path_factory.mktemp("fastconformer"))
    shutil.copytree(fast / FAST, fast / SERVED)
    config = fast / SERVED / "config.pbtxt"
    chosen = 'parameters [\n  { key: "graphs_by", value: { string_value: "triton" } },'
    config.write_text(config.read_text().replace(FAST, SERVED).replace("parameters [", chosen, 1))
    return {FAST: fast, ZIP: exported("zipformer"), SERVED: fast}


@pytest.fixture(scope="module")
def triton(repositories: dict[str, Path]) -> Iterator[Stack]:
    skip_without_triton()
    models = [f"graph_{FAST}_step", *repositories]
    with Stack(models, repositories=[repositories[FAST], repositories[ZIP]]) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_stub(triton: Stack) -> AsyncIterator[tuple[GRPCInferenceServiceStub, Drains]]:
    channel = open_channel(triton.triton.grpc)
    drains = Drains()
    yield GRPCInferenceServiceStub(channel), drains
    await drains.close()
    await channel.close()


class Reference:
    """What torch said, kept with the model."""

    def __init__(self, repository: Path, model: str) -> None:
        folder = repository / model
        with np.load(folder / "reference" / "front.npz") as told:
            count = sum(name.startswith("audio_") for name in told.files)
            self.audios = [told[f"audio_{at}"] for at in range(count)]
            self.texts = [str(told[f"text_{at}"]) for at in range(count)]


def cut(audio: NDArray[np.float32], size: int, seed: int) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    parts, at = [], 0
    while at < len(audio):
        length = size or int(rng.integers(1, 9_000))
        parts.append(audio[at : at + length])
        at += length
    return parts


async def recognise(
    stub: tuple[GRPCInferenceServiceStub, Drains], model: str, chunks: Sequence[NDArray[np.float32]]
) -> str:
    """The last transcript; what was stable must still be there in every later one."""
    call = SequenceCall(stub[0], model, drains=stub[1], decoupled=True)
    stable, text = "", ""
    try:
        for at, chunk in enumerate(chunks):
            told = await call.infer(
                chunk,
                start=at == 0,
                end=at == len(chunks) - 1,
                language="en" if at == 0 else "",
                deadline_s=ANSWER_S,
            )
            text = str(told["TRANSCRIPT"].reshape(-1)[0])
            assert text.startswith(stable)
            stable = text[: int(told["STABLE"].reshape(-1)[0])]
            words = [str(word) for word in told["WORDS"].reshape(-1)]
            assert " ".join(words) == text
            times = told["WORD_TIMES"].reshape(-1)
            assert (np.diff(times) >= 0).all()
        assert bool(told["IS_FINAL"].reshape(-1)[0])
        assert stable == text
        return text
    finally:
        call.give_up()


@pytest.mark.parametrize("model", [FAST, ZIP, SERVED])
@pytest.mark.parametrize("size", SIZES)
async def test_many_utterances_at_once_say_what_torch_said_to_each(
    open_stub: tuple[GRPCInferenceServiceStub, Drains], repositories: dict[str, Path], model: str, size: str
) -> None:
    reference = Reference(repositories[model], model)
    assert sum(bool(text) for text in reference.texts) >= 2
    order = [0, 1, 2, 1, 0, 2]  # ends and starts amid others that run: they are of unequal length
    told = await asyncio.gather(
        *(
            recognise(open_stub, model, cut(reference.audios[at], SIZES[size], number))
            for number, at in enumerate(order)
        )
    )
    assert told == [reference.texts[at] for at in order]


@pytest.mark.parametrize("model", [FAST, ZIP])
async def test_an_utterance_that_is_left_open_does_not_disturb_the_next(
    open_stub: tuple[GRPCInferenceServiceStub, Drains], repositories: dict[str, Path], model: str
) -> None:
    reference = Reference(repositories[model], model)
    left = SequenceCall(open_stub[0], model, drains=open_stub[1], decoupled=True)
    await left.infer(reference.audios[0][:20_000], start=True, deadline_s=ANSWER_S)
    assert await recognise(open_stub, model, cut(reference.audios[1], 2_560, 0)) == reference.texts[1]
    left.give_up()
    assert await recognise(open_stub, model, cut(reference.audios[0], 2_560, 0)) == reference.texts[0]


async def test_audio_that_is_no_number_is_refused_and_others_go_on(
    open_stub: tuple[GRPCInferenceServiceStub, Drains], repositories: dict[str, Path]
) -> None:
    reference = Reference(repositories[FAST], FAST)
    bad = np.full(5_000, np.nan, np.float32)
    good = recognise(open_stub, FAST, cut(reference.audios[0], 2_560, 0))
    told = await asyncio.gather(good, recognise(open_stub, FAST, [bad]), return_exceptions=True)
    assert told[0] == reference.texts[0]
    assert isinstance(told[1], TritonError)
    assert "finite" in str(told[1])
