"""`scripts/demo --models small`: what a hub holds is pulled, and heard and spoken with in place of the built-in models."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.stack.test_cli import CHECKOUT, PARLEY, Lines
from tests.support.hub import Hub

pytestmark = pytest.mark.stack

CATALOGUE = """
models:
  ears: {family: zipformer, kind: asr, source: "hf:some/asr-pulled", licence: MIT}
  mouth: {family: piper, kind: tts, source: "hf:some/tts-pulled", licence: MIT}
pairs:
  small: {asr: ears, tts: mouth}
"""


def model(folder: str, name: str) -> dict[str, bytes]:
    """A built-in model under another name, as a hub would hold it."""
    root = CHECKOUT / "model_repository" / folder
    files = [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    found = {str(path.relative_to(root)): path.read_bytes() for path in files}
    found["config.pbtxt"] = found["config.pbtxt"].replace(f'"{folder}"'.encode(), f'"{name}"'.encode(), 1)
    return found


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as one:
        one.add("some/asr-pulled", model("asr_pocketsphinx", "asr_pulled"))
        one.add("some/tts-pulled", model("tts_espeak", "tts_pulled"))
        yield one


async def test_the_demo_talks_with_the_pulled_pair(hub: Hub, tmp_path: Path) -> None:
    await asyncio.to_thread(_talk, hub.url, tmp_path)
    assert {one.path.split("/")[3] for one in hub.seen if one.path.startswith("/api/")} == {"some"}


def _talk(url: str, folder: Path) -> None:
    (folder / "repository").mkdir()
    (folder / "repository" / "catalogue.yaml").write_text(CATALOGUE)
    kept = {key: its for key, its in os.environ.items() if not key.lower().endswith("_proxy")}
    environment = kept | {
        "HF_ENDPOINT": url, "XDG_CACHE_HOME": str(folder / "cache"), "XDG_RUNTIME_DIR": str(folder / "run"),
        "XDG_STATE_HOME": str(folder / "state"), "PARLEY_TRITON__REPOSITORIES": str(folder / "repository"),
        **{f"PARLEY_LISTEN__{key}": "127.0.0.1:0" for key in ("GRPC", "RIVA", "HTTP", "SPEECH_HTTP", "LLM")},
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli.demo", "--models", "small"], cwd=folder, stdin=subprocess.DEVNULL,
        env=environment | {"PYTHONPATH": str(CHECKOUT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    output = Lines(process.stdout)
    try:
        output.wait_for("the assistant's voice is en-us of tts_pulled")
        listed = subprocess.run(
            [*PARLEY, "models", "list", "--json"],
            env=environment,
            cwd=CHECKOUT,
            capture_output=True,
            timeout=30,
            check=True,
        )
        states = {one["name"]: one["state"] for one in json.loads(listed.stdout)["models"]}
        assert states == {"asr_pulled": "ready", "tts_pulled": "ready"}
        output.wait_for("heard")
        output.wait_for("parley")  # it hears the user and answers
        process.send_signal(signal.SIGINT)
        process.wait(30)
    finally:
        process.kill()
        process.wait()
    assert "untested" in output.text
    assert "with the rights of its own process: tts_pulled/1/espeak.py, tts_pulled/1/model.py" in output.text
    assert "Traceback" not in output.text
