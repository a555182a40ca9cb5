"""The speech process while it starts: it lives at once, and is ready when its models are."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.app import Speech
from gateway.settings import Settings


@pytest.fixture
def silent_triton() -> Iterator[str]:
    """It takes connections and never says anything, as one that loads models."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        yield f"127.0.0.1:{hole.getsockname()[1]}"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def get(url: str) -> tuple[int, object]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


async def test_it_lives_at_once_and_is_not_ready_before_its_models_are(silent_triton: str) -> None:
    port = free_port()
    sections: dict[str, Any] = {
        "triton": {"uri": silent_triton, "repositories": ()},
        "listen": {"riva": "127.0.0.1:0", "speech_http": f"127.0.0.1:{port}"},
        "session": {"drain_s": 0},
    }
    speech = Speech(Settings(**sections))
    starting = asyncio.create_task(speech.start())
    try:
        async with asyncio.timeout(10):
            while not speech.endpoints()["speech_http"]:
                assert not starting.done(), "it started without a Triton"
                await asyncio.sleep(0)
        url = speech.endpoints()["speech_http"]
        assert await asyncio.to_thread(get, f"{url}/healthz") == (200, {"status": "ok"})
        status, body = await asyncio.to_thread(get, f"{url}/readyz")
        assert status == 503
        assert "the speech service is starting" in json.dumps(body)
        assert speech.endpoints()["riva"] == ""  # nobody is taken who would have to wait
    finally:
        starting.cancel()
        await asyncio.wait({starting})
        await speech.stop()
