"""Voices behind an LLM on the real Triton: exported Mimi and SNAC, a server that streams tokens as vLLM does."""

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

from gateway.triton.models.graphs import LocalGraph
from tests.contract.client import Client, Refusal
from tests.support.codec_llm import CodecLlm
from tests.support.exported import changeable, exported
from tests.support.stack import Stack, skip_without_triton

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

SEED, FRAMES, SIZE = 11, 30, 64
ORDERS = {"mimi": list(range(8)), "snac": [0, 1, 4, 2, 3, 5, 6]}
Array = np.ndarray[Any, Any]


@dataclass
class Voice:
    model: str
    llm: CodecLlm
    graph: Path
    order: list[int]

    def whole(self) -> Array:
        """What the graph says to all that the LLM says, at once."""
        codes = self.llm.codes(FRAMES)[self.order]
        graph = LocalGraph(self.graph)
        feeds: dict[str, Array] = {"codes": codes[None]}
        if graph.spec.states:
            feeds |= {s.input: np.zeros((1, *s.dims), np.float32) for s in graph.spec.states}
            feeds["start"] = np.ones((1, 1), np.float32)
        else:
            rows = graph.spec.inputs[1].dims[0]
            noise = np.random.default_rng(SEED).standard_normal((FRAMES, int(rows)), np.float32)
            feeds["noise"] = np.ascontiguousarray(noise.T)[None]
        audio: Array = graph.run(feeds)["audio"][0]
        return audio


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, dict[str, Voice]]]:
    skip_without_triton()
    made: dict[str, Voice] = {}
    folders = []
    with CodecLlm(8, SIZE, lambda _: FRAMES) as eight, CodecLlm(7, SIZE, lambda _: FRAMES) as seven:
        for family, llm in (("mimi", eight), ("snac", seven)):
            repository = changeable(exported(family), tmp_path_factory.mktemp(family))
            model = f"tts_{family}_small"
            config = repository / model / "config.pbtxt"
            text = config.read_text().replace("http://127.0.0.1:8000/v1", llm.url)
            config.write_text(text.replace('"llm_next_token_s", value: { string_value: "5"', '"llm_next_token_s", value: { string_value: "0.5"'))  # fmt: skip
            front = repository / model / "1" / "front.json"
            front.write_text(json.dumps(json.loads(front.read_text()) | {"seed": SEED}))
            made[family] = Voice(model, llm, repository / f"graph_{model}_decoder", ORDERS[family])
            folders.append(repository)
        with Stack([voice.model for voice in made.values()], repositories=folders) as stack:
            yield stack, made


@pytest_asyncio.fixture(loop_scope="module")
async def client(voices: tuple[Stack, dict[str, Voice]]) -> Any:
    stack = voices[0]
    made = Client(stack.triton.grpc, f"{stack.triton.metrics}/metrics")
    for voice in voices[1].values():
        voice.llm.mode = "ok"
        voice.llm.hung_up.clear()
    yield made
    await made.close()


@pytest.fixture(params=["mimi", "snac"])
def voice(request: pytest.FixtureRequest, voices: tuple[Stack, dict[str, Voice]]) -> Voice:
    return voices[1][request.param]


async def speak(client: Client, model: str, text: str = "Good morning.", **inputs: Any) -> Array:
    async with client.speak(await client.config(model), text, **inputs) as speech:
        return np.concatenate([part.audio async for part in speech])


async def test_it_says_what_the_codec_makes_of_the_llm(client: Client, voice: Voice) -> None:
    """Silence before the first sound is trimmed: the end is compared."""
    whole = voice.whole()
    heard = await speak(client, voice.model)
    assert 0 <= len(whole) - len(heard) <= 12_000
    assert np.abs(heard - whole[len(whole) - len(heard) :]).max() <= 1.5 / 32768
    assert heard.std() > 0.03


async def test_eight_at_a_time_say_the_same(client: Client, voice: Voice) -> None:
    alone = await speak(client, voice.model)
    together = await asyncio.gather(*(speak(client, voice.model) for _ in range(8)))
    assert all(len(one) == len(alone) and np.abs(one - alone).max() <= 1.5 / 32768 for one in together)


async def test_the_voice_is_in_the_prompt(client: Client, voice: Voice) -> None:
    await speak(client, voice.model, "Ahoy.", VOICE="leo")
    assert "leo: Ahoy.<|eot_id|>" in voice.llm.requests[-1]["prompt"]


async def test_a_silent_llm_is_an_error_in_a_sentence(client: Client, voice: Voice) -> None:
    voice.llm.mode = "stalls"
    with pytest.raises(Refusal, match=r"said nothing for 0\.5 s; it is too slow or stuck"):
        await speak(client, voice.model)
    voice.llm.mode = "404"
    with pytest.raises(Refusal, match="The model `orpheus` does not exist"):
        await speak(client, voice.model)
    voice.llm.mode = "ok"
    assert len(await speak(client, voice.model)) > 0


async def test_a_cancel_closes_the_llms_stream(client: Client, voice: Voice) -> None:
    voice.llm.mode = "stuck"
    config = await client.config(voice.model)
    voice.llm.asked.clear()
    async with client.speak(config, "Good morning.") as speech:
        assert await asyncio.to_thread(voice.llm.asked.wait, 5)
        await speech.cancel()
        answers = [part async for part in speech]
        assert sum(len(part.audio) for part in answers) == 0
    assert await asyncio.to_thread(voice.llm.hung_up.wait, 5), "the LLM saw its client go"
