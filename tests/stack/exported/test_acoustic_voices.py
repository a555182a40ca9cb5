"""FastSpeech2 and SpeechT5, exported, on the real Triton: what they say is what transformers said."""

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

from tests.contract.client import Client, Refusal
from tests.support.exported import changeable, exported
from tests.support.stack import Stack, skip_without_triton

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

SAID = "hello there, how are you today?"
"""The first of what transformers said at the export, by every voice with the seed 0."""
LONG = " ".join(["The old harbour lies quiet in the morning, and the boats come home one by one."] * 6)
MODELS = ("tts_fastspeech2_small", "tts_speecht5_small")
STEP = 1 / 32768
Array = np.ndarray[Any, Any]


@dataclass
class Served:
    stack: Stack
    repositories: dict[str, Path]

    def told(self, model: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.repositories[model] / model / "1" / "front.json").read_text())
        return told

    def torch_said(self, model: str) -> dict[str, Array]:
        """Of each voice, at its level."""
        gains = {voice["name"]: voice["gain"] for voice in self.told(model)["voices"]}
        with np.load(self.repositories[model] / model / "reference" / "front.npz") as saved:
            names = [str(saved[f"voice_{number}"]) for number in range(len(gains))]
            return {name: saved[f"audio_{number}"] * gains[name] for number, name in enumerate(names)}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    skip_without_triton()
    made = {}
    for model in MODELS:
        family = model.split("_")[1]
        made[model] = changeable(exported(family), tmp_path_factory.mktemp(family))
        front = made[model] / model / "1" / "front.json"
        front.write_text(json.dumps(json.loads(front.read_text()) | {"seed": 0}))
    with Stack(MODELS, repositories=list(made.values())) as stack:
        yield Served(stack, made)


@pytest_asyncio.fixture(loop_scope="module")
async def client(served: Served) -> Any:
    made = Client(served.stack.triton.grpc, f"{served.stack.triton.metrics}/metrics")
    yield made
    await made.close()


async def speak(client: Client, model: str, text: str = SAID, **inputs: Any) -> Array:
    async with client.speak(await client.config(model), text, **inputs) as speech:
        return np.concatenate([part.audio async for part in speech])


@pytest.mark.parametrize("model", MODELS)
async def test_every_voice_says_what_transformers_said(client: Client, served: Served, model: str) -> None:
    """Silence before the first sound is trimmed: the ends are compared, where nothing is near full scale."""
    said = served.torch_said(model)
    assert len(said) == 2
    for voice, whole in said.items():
        heard = await speak(client, model, VOICE=voice)
        assert 0 <= len(whole) - len(heard) <= 12_000
        wanted = whole[len(whole) - len(heard) :]
        plain = np.abs(wanted) < 0.85  # above, the limiter bends
        assert plain.mean() > 0.99
        assert np.abs(heard - wanted)[plain].max() < 2 * STEP
        assert heard.std() > 0.05


@pytest.mark.parametrize("model", MODELS)
async def test_sixteen_at_a_time_say_the_same(client: Client, model: str) -> None:
    alone = await speak(client, model)
    together = await asyncio.gather(*(speak(client, model) for _ in range(16)))
    assert all(len(one) == len(alone) and np.abs(one - alone).max() <= 2 * STEP for one in together)


@pytest.mark.parametrize("model", MODELS)
async def test_a_cancel_in_the_middle_frees_the_engine(client: Client, model: str) -> None:
    config = await client.config(model)
    async with client.speak(config, LONG) as speech:
        first = await speech.next()
        assert first is not None
        assert len(first.audio)
        assert not first.final
        await speech.cancel()
        after = [part async for part in speech]
    seconds = sum(len(part.audio) for part in after) / int(config.parameters["sample_rate"].string_value)
    assert seconds < 10, "half a minute was asked for"
    assert len(await speak(client, model, "Hello.")) > 0
    assert await client.metric("parley_tts_cancelled_total", model=model, how="in-band") == 1
    assert await client.metric("parley_tts_free_after_cancel_seconds_count", model=model) == 1


@pytest.mark.parametrize("model", MODELS)
async def test_speed(client: Client, model: str) -> None:
    usual = len(await speak(client, model))
    assert len(await speak(client, model, SPEED=0.8)) > 1.15 * usual
    assert len(await speak(client, model, SPEED=1.6)) < 0.75 * usual


@pytest.mark.parametrize("model", MODELS)
async def test_what_cannot_be_said_is_refused_in_a_sentence(client: Client, model: str) -> None:
    with pytest.raises(Refusal, match="nothing of the text"):
        await speak(client, model, "你好")
    assert len(await speak(client, model)) > 0


async def test_the_first_chunk_of_one_goes_before_the_rest_of_others(client: Client) -> None:
    """The steps of long texts do not hold up a short one."""
    config = await client.config("tts_speecht5_small")
    speaking = asyncio.Semaphore(0)

    async def say_all() -> int:
        count = 0
        async with client.speak(config, LONG) as speech:
            async for part in speech:
                count += 1
                if count == 1:
                    speaking.release()
                if part.final:
                    ended.append(count)
        return count

    ended: list[int] = []
    long = [asyncio.create_task(say_all()) for _ in range(4)]
    async with asyncio.timeout(20):
        for _ in long:
            await speaking.acquire()
    async with client.speak(config, "Hello.") as speech:
        first = await speech.next()
        assert first is not None
        assert len(first.audio)
        assert not ended, "all others speak on"
        assert [part async for part in speech]
    assert min(await asyncio.gather(*long)) > 50
