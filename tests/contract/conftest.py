"""The contract suite's server and models.

It runs against every `asr_*` and `tts_*` model of the repository that this machine can load. Point it
at others with PARLEY_CONTRACT_REPOSITORY=folder and PARLEY_CONTRACT_MODELS=asr_mine,tts_mine; a model
that was named must load.
"""

from __future__ import annotations

import json
import os
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.triton.host import find_wheel
from gateway.triton.model_info import read_repository
from gateway.triton.server import EmbeddedTriton
from tests.contract.client import Client, Recording

CHECKOUT = Path(__file__).resolve().parents[2]
REPOSITORY = Path(os.environ.get("PARLEY_CONTRACT_REPOSITORY", CHECKOUT / "model_repository"))
NAMED = tuple(name for name in os.environ.get("PARLEY_CONTRACT_MODELS", "").split(",") if name)
RECORDINGS = CHECKOUT.parent / "shared" / "audio"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for kind in ("asr", "tts"):
        if f"{kind}_config" in metafunc.fixturenames:
            names = [name for name in NAMED or read_repository(REPOSITORY) if name.startswith(f"{kind}_")]
            metafunc.parametrize(f"{kind}_config", names, indirect=True)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedTriton]:
    if find_wheel() is None:
        pytest.skip("the embedded Triton is not installed: pip install 'parley[embedded]'")
    models = [name for name in NAMED or read_repository(REPOSITORY) if name.startswith(("asr_", "tts_"))]
    logs = tmp_path_factory.mktemp("triton")
    async with EmbeddedTriton([REPOSITORY], models=models, log_dir=logs, exit_s=5) as triton:
        yield triton


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(server: EmbeddedTriton) -> AsyncIterator[Client]:
    made = Client(server.grpc, f"{server.metrics}/metrics")
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="session")
async def asr_config(request: pytest.FixtureRequest, server: EmbeddedTriton, client: Client) -> ModelConfig:
    return await _config(request.param, server, client)


@pytest_asyncio.fixture(loop_scope="session")
async def tts_config(request: pytest.FixtureRequest, server: EmbeddedTriton, client: Client) -> ModelConfig:
    return await _config(request.param, server, client)


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


async def _config(name: str, server: EmbeddedTriton, client: Client) -> ModelConfig:
    if name in server.failed:
        (pytest.fail if name in NAMED else pytest.skip)(server.failed[name])
    return await client.config(name)
