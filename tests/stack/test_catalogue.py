"""The catalogue beside a real Triton: repositories on the disk and in an object store, packs, contracts."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
import soundfile

from gateway.triton.catalogue.catalogue import Catalogue
from gateway.triton.catalogue.findings import Level
from gateway.triton.catalogue.machine import this_machine
from gateway.triton.catalogue.verify import verify
from gateway.triton.channel import GRPCInferenceServiceStub, open_channel
from gateway.triton.codec import text
from gateway.triton.infer import stream_decoupled
from gateway.triton.repository import Repository
from gateway.triton.stream import Drains
from tests.support.object_store import CREDENTIALS, object_store
from tests.support.stack import MODELS, TEST_MODELS, Stack, skip_without_triton

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    skip_without_triton()
    pytest.importorskip("obstore")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in CREDENTIALS.items():
            patch.setenv(key, value)
        with object_store(TEST_MODELS / "tts_mimic", TEST_MODELS / "asr_light") as url:
            yield url


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(TEST_MODELS / "tts_light", folder / "tts_light")
    return folder


@pytest.fixture(scope="module")
def stack(store: str, local: Path) -> Iterator[Stack]:
    with Stack(["tts_mimic", "asr_light"], repositories=[store, local]) as running:
        yield running


@pytest_asyncio.fixture
async def channel(stack: Stack) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(stack.triton.grpc) as opened:
        yield opened


async def test_one_server_serves_models_of_a_folder_and_of_an_object_store(
    stack: Stack, store: str, local: Path, channel: grpc.aio.Channel
) -> None:
    repository = Repository(channel)
    catalogue = Catalogue([store, local], repository, machine=this_machine())
    await catalogue.refresh()
    assert [info.name for info in catalogue.all()] == ["asr_light", "tts_light", "tts_mimic"]
    assert catalogue.problems() == {}
    assert stack.triton.ready >= {"asr_light", "tts_mimic"}

    # A folder added later is seen, and loads; a broken one is told of before Triton is asked.
    shutil.copytree(local / "tts_light", local / "tts_later")
    shutil.copytree(local / "tts_light", local / "tts_torn")
    config = (local / "tts_light" / "config.pbtxt").read_text()
    (local / "tts_later" / "config.pbtxt").write_text(config.replace("tts_light", "tts_later"))
    (local / "tts_torn" / "config.pbtxt").write_text(config)
    await catalogue.refresh()
    assert catalogue.get("tts_later") is not None
    assert 'its folder "tts_torn"' in catalogue.problems()["tts_torn"]
    await repository.load("tts_later")

    # Where no repository can be read, Triton tells of what is loaded, and the names of the rest.
    blind = Catalogue([], repository)
    await blind.refresh()
    later, light = blind.get("tts_later"), blind.get("tts_light")
    assert later is not None
    assert later.engine == "light"
    assert light is not None
    assert light.engine == ""
    for name in ("tts_later", "tts_torn"):
        shutil.rmtree(local / name)
    await repository.unload("tts_later")


async def test_the_audio_of_a_pack_reaches_the_model(
    store: str, channel: grpc.aio.Channel, tmp_path: Path
) -> None:
    at = np.arange(2 * 16_000) / 16_000
    spoken = np.rint(np.sin(2 * np.pi * 300 * at) * np.sin(np.pi * at / 2) * 12_000).astype(np.int16)
    (tmp_path / "joe").mkdir()
    soundfile.write(tmp_path / "joe" / "joe.wav", spoken, 16_000)
    (tmp_path / "joe" / "voice.yaml").write_text(
        "name: joe\nlanguage: en-US\nlicence: CC0-1.0\nreference: joe.wav\n"
    )
    catalogue = Catalogue([store], Repository(channel), packs=[tmp_path])
    await catalogue.refresh()
    assert list(catalogue.packs("tts_mimic")) == ["joe"]
    drains = Drains()
    answer = stream_decoupled(
        GRPCInferenceServiceStub(channel),
        "tts_mimic",
        {"TEXT": text("Hello."), **catalogue.voice_inputs("tts_mimic", "joe")},
        drains=drains,
        first_deadline_s=5.0,
        next_deadline_s=5.0,
    )
    async with aclosing(answer) as parts:
        heard = np.concatenate([part["AUDIO"] async for part in parts])
    await drains.close()
    assert np.array_equal(heard, spoken.astype(np.float32) / 32768)


async def test_a_recogniser_and_a_voice_keep_their_contract(channel: grpc.aio.Channel) -> None:
    repository = Repository(channel)
    found = await verify(channel, await repository.describe("asr_light"))
    assert {one.level for one in found} == {Level.OK}, found
    found = await verify(channel, await repository.describe("tts_mimic"))
    assert "REFERENCE_AUDIO is missing" in str(found[0]), "a voice that cannot speak alone is found out"


async def test_what_the_shipped_repository_lists_loads_here(store: str) -> None:
    skip_without_triton()
    catalogue = Catalogue([MODELS], machine=this_machine())
    await catalogue.refresh()
    names = [info.name for info in catalogue.all()]
    assert any(not info.default for info in catalogue.all()), "one model at least waits for its first use"
    with Stack(names, repositories=[MODELS]) as running:
        assert running.triton.ready == set(names)
        async with open_channel(running.triton.grpc) as channel:
            repository = Repository(channel)
            for name in names:
                found = await verify(channel, await repository.describe(name))
                assert {one.level for one in found} == {Level.OK}, (name, found)
