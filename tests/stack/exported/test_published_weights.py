"""Published weights, not random ones: Moonshine tiny as its project ships it, in a package, hears real speech.

Pulled by the catalogue's name, exported, proved, and heard with through `parley up` by Riva's own client. Whatever
is wrong with an exporter but right by its own mirror shows here: the first such weights wanted the decoder's mask in
samples, and failed for everybody who spoke for more than 9 s.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pocketsphinx
import pytest
import riva.client

from bench.speech import Clip, recordings
from bench.words import errors, normalised
from gateway.cli.models.pull_shown import Lines
from gateway.triton.exported.environment import cache_folder, run_python
from gateway.triton.models.asr.buffered import load
from gateway.triton.models.asr.engine import Heard, Job
from gateway.triton.models.exported import Folder
from gateway.triton.proof.fronts import SESSION
from gateway.triton.proof.prove import prove
from gateway.triton.pulling.entries import load_shelf
from gateway.triton.pulling.licences import Licence
from gateway.triton.pulling.pull import pull
from gateway.triton.pulling.sources import wanted
from gateway.triton.pulling.web import Web
from tests.stack.test_cli import Running, start, stop
from tests.support.exported import exported, skip_without_exports
from tests.support.stack import MODELS

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
ENTRY, MODEL = "moonshine-tiny-en", "asr_moonshine_tiny_en"
OWN = "asr_moonshine_widened"
"""The same weights in 32 bits, exported as a checkpoint of the hub would be."""
CHUNKS = (0, 1_600)
"""Samples; 0: Riva's offline call."""
MOST_ERRORS = 0.12
"""Of the words: 6 of 95 were measured on the eleven recordings, and 3 where the model hears each in one piece."""


@pytest.fixture(scope="module")
def repository() -> Path:
    return exported("moonshine", checkpoint=ENTRY)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return recordings() or pytest.skip("there are no recordings of people beside this checkout")


@pytest.fixture(scope="module")
def stack(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PARLEY_TRITON__REPOSITORIES", json.dumps([str(MODELS), str(repository)]))
        environment.setenv("PARLEY_ASR__MODEL", MODEL)
        environment.setenv("PARLEY_MODELS__ASR", MODEL)
        running = start(tmp_path_factory.mktemp("published"), "127.0.0.1:0")
    try:
        yield running
    finally:
        assert stop(running) == 0


async def test_it_is_proved(repository: Path) -> None:
    told = json.loads((repository / MODEL / "provenance.json").read_text("utf-8"))
    assert told["source"] == "package:moonshine-voice==0.0.62"
    assert told["license"] == "MIT"
    found = await prove(repository / MODEL)
    assert SESSION in {one.how for one in found}
    assert not [one for one in found if not one.ok]


@pytest.mark.parametrize("chunk", CHUNKS)
def test_riva_clients_are_heard(stack: Running, clips: list[Clip], chunk: int) -> None:
    said = {clip.name: heard(stack, clip, chunk) for clip in clips}
    wrong = {clip.name: errors(clip.text, said[clip.name]) for clip in clips}
    words = sum(len(normalised(clip.text).split()) for clip in clips)
    assert sum(wrong.values()) <= MOST_ERRORS * words, (wrong, said)


def heard(stack: Running, clip: Clip, chunk: int) -> str:
    service = riva.client.ASRService(riva.client.Auth(uri=stack.endpoints["riva"]))
    config = riva.client.RecognitionConfig(
        encoding=riva.client.AudioEncoding.LINEAR_PCM, sample_rate_hertz=16_000, language_code="en-US", model=MODEL,
        max_alternatives=1, enable_word_time_offsets=True,
    )  # fmt: skip
    audio = np.asarray(clip.samples, "<i2").tobytes()
    if chunk:
        streaming = riva.client.StreamingRecognitionConfig(config=config, interim_results=True)
        chunks = [audio[at : at + 2 * chunk] for at in range(0, len(audio), 2 * chunk)]
        answers = list(service.streaming_response_generator(chunks, streaming))
    else:
        answers = [service.offline_recognize(audio, config)]
    # Only a stream's results say whether they are final.
    results = [one for answer in answers for one in answer.results if not chunk or one.is_final]
    for result in results:
        times = [(word.start_time, word.end_time) for word in result.alternatives[0].words]
        assert times == sorted(times)
        assert all(0 <= first <= last <= len(clip.samples) / 16 + 1 for first, last in times)
    return " ".join(one.alternatives[0].transcript for one in results)


@pytest.fixture(scope="module")
def widened() -> Path:
    """A repository with the same weights in 32 bits, through torch and Parley's own graphs."""
    skip_without_exports()
    shipped = asyncio.run(_pulled())
    made = cache_folder() / "exports" / f"widened-{shipped.name}" / "moonshine-widened"
    if not made.exists():
        work = made.with_name(f".{os.getpid()}")
        assert asyncio.run(run_python(["-m", "tests.export.widened", str(shipped), str(work)])) == 0
        work.rename(made)
    return exported("moonshine", checkpoint=str(made))


async def _pulled() -> Path:
    async def consent(name: str, licence: Licence, size: int | None) -> str:
        return "by the test"

    what = wanted(ENTRY, load_shelf([MODELS / "catalogue.yaml"]))
    async with Web.from_environment() as web:
        return (await pull(what, web, Lines(ENTRY, print), consent)).path


async def test_parleys_own_graphs_of_these_weights_are_proved(widened: Path) -> None:
    found = await prove(widened / OWN)
    assert SESSION in {one.how for one in found}
    assert not [one for one in found if not one.ok]


def test_parleys_own_graphs_hear_people_and_when_they_spoke(widened: Path, clips: list[Clip]) -> None:
    """Words against the transcripts, their times against the built-in recogniser's alignment of the same words."""
    recogniser = load(Folder(widened / OWN / "1"))
    wrong, late = 0, []
    for clip in clips:
        (said,) = recogniser.step([Job(recogniser.begin("en"), clip.samples / np.float32(32_768), True)])
        assert isinstance(said, Heard)
        wrong += errors(clip.text, " ".join(word.text for word in said.words))
        spoken = [normalised(word.text).replace(" ", "") for word in said.words]
        aligned = alignment(clip)
        if spoken == [name for name, _ in aligned]:
            late += [word.start_ms - start for word, (_, start) in zip(said.words, aligned, strict=True)]
    assert wrong <= 5, "3 of 95 were measured"
    assert len(late) > 25
    assert abs(np.median(late)) < 60, "6 ms were measured; 280 ms is one token too late"
    assert np.median(np.abs(late)) < 100, "46 ms were measured"


def alignment(clip: Clip) -> list[tuple[str, int]]:
    """Each word of the transcript and where pocketsphinx finds it to begin, ms."""
    decoder = pocketsphinx.Decoder(pocketsphinx.Config(lm=None, samprate=16_000, loglevel="FATAL"))
    decoder.set_align_text(normalised(clip.text))
    decoder.start_utt()
    decoder.process_raw(np.asarray(clip.samples, "<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    return [
        (re.sub(r"\(\d\)$", "", one.word), one.start_frame * 10)
        for one in decoder.seg()
        if one.word[0] != "<"
    ]
