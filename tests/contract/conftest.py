"""The contract suite's server and models.

It runs against every `asr_*` and `tts_*` model of the repository that this machine can load. Point it
at others with PARLEY_CONTRACT_REPOSITORY=folder and PARLEY_CONTRACT_MODELS=asr_mine,tts_mine; a model
that was named must load. The emulated voice of the load tests keeps the same contract, so that it
cannot drift from the real ones.
"""

from __future__ import annotations

import json
import os
import wave
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.triton.catalogue.folder import read_local
from gateway.triton.host import find_wheel
from gateway.triton.server import EmbeddedTriton
from load.emulators import Addresses, emulators, read_profile
from tests.contract.client import Client, Recording

CHECKOUT = Path(__file__).resolve().parents[2]
REPOSITORY = Path(os.environ.get("PARLEY_CONTRACT_REPOSITORY", CHECKOUT / "model_repository"))
NAMED = tuple(name for name in os.environ.get("PARLEY_CONTRACT_MODELS", "").split(",") if name)
RECORDINGS = CHECKOUT.parent / "shared" / "audio"


EMULATED = "tts_emulated"


@dataclass(frozen=True)
class Host:
    """A server with models."""

    client: Client
    failed: Mapping[str, str] = field(default_factory=dict)
    """Models that did not load, with the reason."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for kind in ("asr", "tts"):
        if f"{kind}_config" not in metafunc.fixturenames:
            continue
        names = [name for name in NAMED or _listed() if name.startswith(f"{kind}_")]
        models = [pytest.param(name, marks=pytest.mark.stack) for name in names]
        # Words cannot be recognised in the babble of the emulated voice.
        if kind == "tts" and "asr_config" not in metafunc.fixturenames and not NAMED:
            models.append(pytest.param(EMULATED))
        metafunc.parametrize(f"{kind}_config", models, indirect=True)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedTriton]:
    if find_wheel() is None:
        pytest.skip("the embedded Triton is not installed: pip install 'parley[embedded]'")
    models = [name for name in NAMED or _listed() if name.startswith(("asr_", "tts_"))]
    logs = tmp_path_factory.mktemp("triton")
    async with EmbeddedTriton([REPOSITORY], models=models, log_dir=logs, exit_s=5) as triton:
        yield triton


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def triton(server: EmbeddedTriton) -> AsyncIterator[Host]:
    made = Client(server.grpc, f"{server.metrics}/metrics")
    yield Host(made, server.failed)
    await made.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def emulated() -> AsyncIterator[Addresses]:
    """Timed like real parts, only that its voice is quicker; in the loop of the tests."""
    profile = read_profile("blueprint-1").changed({"tts": {"rtf": 0.08}})
    async with emulators(profile, seed=7) as addresses:
        yield addresses


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def emulated_triton(emulated: Addresses) -> AsyncIterator[Host]:
    made = Client(emulated.triton, f"{emulated.control}/metrics")
    yield Host(made)
    await made.close()


@pytest.fixture
def host(request: pytest.FixtureRequest) -> Host:
    """Of the model that the test is about."""
    asked = getattr(request.node, "callspec", None)
    is_emulated = asked is not None and asked.params.get("tts_config") == EMULATED
    found: Host = request.getfixturevalue("emulated_triton" if is_emulated else "triton")
    return found


@pytest.fixture
def client(host: Host) -> Client:
    return host.client


@pytest_asyncio.fixture(loop_scope="session")
async def asr_config(request: pytest.FixtureRequest, host: Host) -> ModelConfig:
    return await _config(request.param, host)


@pytest_asyncio.fixture(loop_scope="session")
async def tts_config(request: pytest.FixtureRequest, host: Host) -> ModelConfig:
    return await _config(request.param, host)


@pytest.fixture(scope="session")
def recordings() -> dict[str, Recording]:
    """Real speech in English, 16 kHz, by name."""
    index = RECORDINGS / "transcripts.json"
    if not index.exists():
        pytest.skip("no recorded speech beside the checkout")
    found = {}
    for name, about in json.loads(index.read_text()).items():
        if about["text"] and about["language"].startswith("en"):
            with wave.open(str(RECORDINGS / name)) as file:
                pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
            found[name.removesuffix(".wav")] = Recording(pcm.astype(np.float32) / 32768, about["text"])
    return found


def _listed() -> list[str]:
    return [folder.name for folder in read_local(REPOSITORY)]


async def _config(name: str, host: Host) -> ModelConfig:
    if name in host.failed:
        (pytest.fail if name in NAMED else pytest.skip)(host.failed[name])
    return await host.client.config(name)
