"""Voices that stay programs, on the real Triton: CSM in its own environment; a stand-in for the families whose library
is not here keeps the whole contract of a voice, as does a codec's voice behind an LLM."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from gateway.triton.exported.environment import CHECKOUT
from gateway.triton.server import EmbeddedTriton
from tests.contract.client import Client, Refusal
from tests.support.codec_llm import CodecLlm
from tests.support.exported import changeable, exported
from tests.support.stack import Stack, skip_without_triton

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

XTTS, CSM = "tts_xtts_stand_in", "tts_csm_small"
FAMILIES = CHECKOUT / "triton" / "families"
ENVIRONMENT_S = 900
Array = np.ndarray[Any, Any]


def stand_in(to: Path) -> Path:
    return changeable(exported("xtts", checkpoint="random:stand-in"), to)


def accept(model: Path) -> None:
    config = model / "config.pbtxt"
    refused = '"accept_license", value: { string_value: "false" }'
    assert refused in config.read_text()
    config.write_text(config.read_text().replace(refused, refused.replace("false", "true")))


@pytest.fixture(scope="module")
def csm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """In an environment over the exporter's, made by the command that people use."""
    skip_without_triton()
    repository = changeable(exported("csm", "temperature=0"), tmp_path_factory.mktemp("csm"))
    command = [sys.executable, "-m", "gateway.triton.exported.family_environment", str(repository / CSM)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=ENVIRONMENT_S, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    with Stack([CSM], repositories=(repository,)) as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="module")
async def client(csm: Stack) -> AsyncIterator[Client]:
    made = Client(csm.triton.grpc, f"{csm.triton.metrics}/metrics")
    yield made
    await made.close()


async def speak(client: Client, model: str, text: str, **inputs: Any) -> Array:
    async with client.speak(await client.config(model), text, **inputs) as speech:
        return np.concatenate([part.audio async for part in speech])


async def test_csm_speaks_in_its_own_environment(client: Client) -> None:
    """The gateway's has neither torch nor transformers."""
    one, other = [await speak(client, CSM, "Good morning.", VOICE=voice) for voice in ("0", "1")]
    again = await speak(client, CSM, "Good morning.", VOICE="0")
    assert one.std() > 0.03
    assert np.array_equal(one, again)
    assert np.abs(one[:20_000] - other[:20_000]).max() > 0.05


async def test_csm_imitates_and_changes_its_speed(client: Client) -> None:
    usual = await speak(client, CSM, "Good morning.")
    reference = np.random.default_rng(3).standard_normal(16_000).astype(np.float32) / 10
    imitated = await speak(client, CSM, "Good morning.", REFERENCE_AUDIO=reference)
    assert np.abs(usual[:20_000] - imitated[:20_000]).max() > 0.05
    assert len(await speak(client, CSM, "Good morning.", SPEED=1.5)) < 0.8 * len(usual)
    with pytest.raises(Refusal, match=r"REFERENCE_AUDIO has 31\.0 s"):
        await speak(client, CSM, "Hello.", REFERENCE_AUDIO=np.zeros(31 * 16_000, np.float32))


async def test_a_cancelled_csm_is_free_at_once(client: Client) -> None:
    config = await client.config(CSM)
    async with client.speak(config, "The old harbour lies quiet in the morning. " * 8) as speech:
        await speech.next()
        await speech.cancel()
        left = [part async for part in speech]
    assert sum(len(part.audio) for part in left) < 24_000
    assert len(await asyncio.wait_for(speak(client, CSM, "Yes."), 10)) > 0


async def test_what_cannot_load_says_what_to_do(tmp_path: Path) -> None:
    """The licence nobody accepted, and the families whose libraries are not here."""
    skip_without_triton()
    repository = stand_in(tmp_path)
    wanted = {XTTS: r"non-commercial use alone (LicenseRef-CPML-1.0); read LICENSE in its folder"}
    for family in ("cosyvoice2", "xtts", "parler", "melo", "spark", "csm"):
        name = f"tts_no_{family}"
        shutil.copytree(repository / XTTS, repository / name)
        accept(repository / name)
        config = repository / name / "config.pbtxt"
        config.write_text(config.read_text().replace(XTTS, name))
        shutil.copy(FAMILIES / family / "generator.py", repository / name / "1" / "generator.py")
        wanted[name] = f"in an environment of its own: scripts/families {repository / name}"
    async with EmbeddedTriton([repository], models=list(wanted), log_dir=tmp_path, exit_s=2) as triton:
        assert triton.failed.keys() == wanted.keys()
        for name, sentence in wanted.items():
            assert sentence in triton.failed[name], triton.failed[name]


async def test_they_keep_the_contract_of_a_voice(tmp_path: Path) -> None:
    """The whole contract suite, as it runs against every model: over a stand-in, and over a codec behind an LLM."""
    skip_without_triton()
    repository = stand_in(tmp_path / "xtts")
    accept(repository / XTTS)
    codec = exported("snac")
    for folder in codec.iterdir():
        shutil.copytree(folder, repository / folder.name)
    front = repository / "tts_snac_small" / "1" / "front.json"
    front.write_text(
        json.dumps(json.loads(front.read_text()) | {"seed": 1})
    )  # texts are compared with themselves
    with CodecLlm(7, 64, _frames, by_prompt=True) as llm:
        config = repository / "tts_snac_small" / "config.pbtxt"
        config.write_text(config.read_text().replace("http://127.0.0.1:8000/v1", llm.url))
        made = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/contract/test_tts_contract.py"],
            cwd=CHECKOUT,
            env=os.environ | {
                "PARLEY_CONTRACT_REPOSITORY": str(repository),
                "PARLEY_CONTRACT_MODELS": f"{XTTS},tts_snac_small",
            },
            capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
    assert made.returncode == 0, made.stdout[-4000:]


def _frames(prompt: str) -> int:
    """As long as somebody would speak."""
    text = prompt.split(": ", 1)[1].split("<|eot_id|>")[0]
    return max(1, round(len(text) * 0.055 / 0.0853))
