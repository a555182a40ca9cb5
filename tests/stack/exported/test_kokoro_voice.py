"""An imported Kokoro (a stand-in's graph) on the real Triton."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from gateway.triton.models.exported import Folder
from gateway.triton.models.tts.common import to_int16
from gateway.triton.models.tts.kokoro import Kokoro, load
from tests.contract.client import Client, Refusal
from tests.support.exported import changeable, exported
from tests.support.stack import Stack, skip_without_triton

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

MODEL, SEED = "tts_kokoro_small", 7
TEXT = "The boats came home at 3:05 pm"
Array = np.ndarray[Any, Any]


@dataclass
class Served:
    stack: Stack
    engine: Kokoro


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    skip_without_triton()
    repository: Path = changeable(exported("kokoro"), tmp_path_factory.mktemp("kokoro"))
    front = repository / MODEL / "1" / "front.json"
    front.write_text(json.dumps(json.loads(front.read_text()) | {"seed": SEED}))
    with Stack([MODEL], repositories=[repository]) as stack:
        yield Served(stack, load(Folder(repository / MODEL / "1")))


@pytest_asyncio.fixture(loop_scope="module")
async def client(served: Served) -> Any:
    made = Client(served.stack.triton.grpc, f"{served.stack.triton.metrics}/metrics")
    yield made
    await made.close()


async def speak(client: Client, text: str = TEXT, **inputs: Any) -> Array:
    async with client.speak(await client.config(MODEL), text, **inputs) as speech:
        return np.concatenate([part.audio async for part in speech])


@pytest.mark.parametrize("voice", ["am_small", "bf_small"])
async def test_it_says_what_the_graph_says(client: Client, served: Served, voice: str) -> None:
    """Silence before the first sound is trimmed: the ends are compared."""
    gain = next(one.gain for one in served.engine.voices if one.name == voice)
    whole = np.clip(to_int16(served.engine.audio(TEXT, SEED, voice)) * (gain / 32768), -1, 1)
    heard = await speak(client, VOICE=voice)
    assert 0 <= len(whole) - len(heard) <= 12_000
    difference = heard - whole[len(whole) - len(heard) :]
    quiet = np.abs(whole[len(whole) - len(heard) :]) < 0.5  # above, the limiter bends
    assert quiet.mean() > 0.9
    assert np.abs(difference[quiet]).max() < 2e-3
    assert heard.std() > 0.03


async def test_a_language_chooses_a_voice_and_its_lexicon(client: Client) -> None:
    assert np.array_equal(await speak(client, LANGUAGE="en-GB"), await speak(client, VOICE="bf_small"))
    assert not np.array_equal(await speak(client, LANGUAGE="en-US"), await speak(client, LANGUAGE="en-GB"))


async def test_speed_and_many_at_once(client: Client) -> None:
    usual = await speak(client)
    assert len(await speak(client, SPEED=2.0)) < 0.8 * len(usual)
    together = await asyncio.gather(*(speak(client) for _ in range(6)))
    assert all(np.array_equal(one, usual) for one in together)


async def test_a_long_text_is_said_in_pieces_and_the_first_comes_early(client: Client) -> None:
    text = "Good morning, everybody. " + "This is a sentence that says a little more about it, 12 times. " * 6
    async with client.speak(await client.config(MODEL), text) as speech:
        chunks = [part.audio async for part in speech]
    assert len(chunks) > 5
    assert sum(len(chunk) for chunk in chunks) > 10 * 24_000


async def test_what_cannot_be_said_is_refused_in_a_sentence(client: Client) -> None:
    with pytest.raises(Refusal, match="nothing of the text"):
        await speak(client, "你好")
    assert len(await speak(client)) > 0
