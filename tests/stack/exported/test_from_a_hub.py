"""A checkpoint as transformers saves it, on a hub: one command pulls and exports it, and Triton speaks with it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.triton.exported.environment import run_python
from gateway.triton.proof.fronts import SESSION
from gateway.triton.proof.prove import prove
from tests.stack.exported.test_proofs import front_of
from tests.support.hub import Hub

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("runnable")]


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Hub]:
    if os.environ.get("PARLEY_NO_EXPORT"):
        pytest.skip("exports are left out: --no-export")
    for name in [one for one in os.environ if one.lower().endswith("_proxy") or one.startswith("PARLEY_")]:
        monkeypatch.delenv(name)
    checkpoint = tmp_path / "checkpoint"
    assert await run_python(["-m", "tests.export.checkpoints", "vits", str(checkpoint)]) == 0
    monkeypatch.setattr("gateway.triton.pulling.pull.cache.cache_folder", lambda: tmp_path / "pulled")
    files = {
        str(path.relative_to(checkpoint)): path.read_bytes()
        for path in checkpoint.rglob("*")
        if path.is_file()
    }
    async with Hub() as one:
        monkeypatch.setenv("HF_ENDPOINT", one.url)
        one.add("some/Voice-1", files, licence="cc-by-nc-4.0")
        yield one


@pytest.mark.timeout(600)
async def test_an_id_becomes_a_voice_that_says_what_torch_says(hub: Hub, tmp_path: Path) -> None:
    command = ["vits", "some/Voice-1", "--out", str(tmp_path / "models"), "--accept-license", "CC-BY-NC-4.0"]
    assert await parley("models", "export", *command) == 0
    front = front_of(tmp_path / "models")
    assert front.name == "tts_vits_voice_1"
    told = json.loads((front / "provenance.json").read_text("utf-8"))
    assert told["source"] == "some/Voice-1"
    assert told["revision"] == hub.repositories["some/Voice-1"].commit
    assert told["license"] == "CC-BY-NC-4.0"
    assert "model.safetensors" in told["source_sha256"]
    assert '"CC-BY-NC-4.0"' in (front / "config.pbtxt").read_text("utf-8")
    found = await prove(front)
    assert SESSION in {one.how for one in found}
    assert not [one for one in found if not one.ok]


async def parley(*words: str) -> int:
    """As typed; in a thread, for it runs a loop of its own, and the hub lives in this one."""
    return await asyncio.to_thread(main, list(words))
