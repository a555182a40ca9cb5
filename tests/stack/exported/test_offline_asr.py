"""Exported Parakeet CTC, RNN-T and TDT on the real Triton: whatever the chunks, the words that torch said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from gateway.triton.channel import GRPCInferenceServiceStub, open_channel
from gateway.triton.infer import SequenceCall
from gateway.triton.stream import Drains
from tests.support.exported import changeable, exported
from tests.support.stack import Stack, skip_without_triton

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

CTC, RNNT, TDT = (f"asr_parakeet_{kind}_small" for kind in ("ctc", "rnnt", "tdt"))
"""The graphs of the last one are run by Triton itself, not by the front."""
RATE = 16_000
ANSWER_S = 30.0
Stub = tuple[GRPCInferenceServiceStub, Drains]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    tdt = changeable(exported("parakeet-rnnt", "tdt=true"), tmp_path_factory.mktemp("tdt"))
    config = tdt / TDT / "config.pbtxt"
    served = 'parameters [\n  { key: "graphs_by", value: { string_value: "triton" } },'
    config.write_text(config.read_text().replace("parameters [", served, 1))
    return {CTC: exported("parakeet-ctc"), RNNT: exported("parakeet-rnnt"), TDT: tdt}


@pytest.fixture(scope="module")
def triton(repositories: dict[str, Path]) -> Iterator[Stack]:
    skip_without_triton()
    models = [f"graph_{TDT}_encoder", f"graph_{TDT}_decoder", *repositories]
    with Stack(models, repositories=sorted(set(repositories.values()))) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_stub(triton: Stack) -> AsyncIterator[Stub]:
    channel = open_channel(triton.triton.grpc)
    drains = Drains()
    yield GRPCInferenceServiceStub(channel), drains
    await drains.close()
    await channel.close()


async def recognise(stub: Stub, model: str, audio: NDArray[np.float32], chunk: int) -> list[str]:
    """Every transcript, the last one final."""
    call = SequenceCall(stub[0], model, drains=stub[1], decoupled=True)
    chunks = [audio[at : at + chunk] for at in range(0, len(audio), chunk)]
    said = []
    try:
        for at, one in enumerate(chunks):
            last = at == len(chunks) - 1
            told = await call.infer(one, start=at == 0, end=last, deadline_s=ANSWER_S)
            assert bool(told["IS_FINAL"].reshape(-1)[0]) is last
            times = told["WORD_TIMES"].reshape(-1)
            assert (np.diff(times) >= 0).all()
            assert times.max(initial=0) <= sum(map(len, chunks[: at + 1])) * 1000 / RATE
            said.append(str(told["TRANSCRIPT"].reshape(-1)[0]))
    finally:
        call.give_up()
    return said


@pytest.mark.parametrize("model", [CTC, RNNT, TDT])
async def test_utterances_side_by_side_end_with_what_torch_said(
    open_stub: Stub, repositories: dict[str, Path], model: str
) -> None:
    with np.load(repositories[model] / model / "reference" / "front.npz") as told:
        audios = [told[f"audio_{number}"] for number in range(3)]
        texts = [str(told[f"text_{number}"]) for number in range(3)]
    assert texts[0]
    order = [0, 1, 2, 0, 1, 0]
    sizes = [1_280, 7_680, 100_000, 24_001, 640, 3_200]
    said = await asyncio.gather(
        *(recognise(open_stub, model, audios[at], size) for at, size in zip(order, sizes, strict=True))
    )
    assert [one[-1] for one in said] == [texts[at] for at in order]
    assert any(len(set(one)) > 2 for one in said)  # words came before the end, too
