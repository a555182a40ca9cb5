"""Exported VITS and an imported Piper voice on the real Triton: the contract of voices, and torch's own audio."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from gateway.triton.models.audio import Trim, limited
from gateway.triton.models.exported import Folder
from tests.contract.client import Client
from tests.contract.test_tts_contract import (  # noqa: F401
    test_a_vanished_client_stops_the_work,
    test_cancel_behind_the_end_is_no_error,
    test_cancel_of_one_leaves_the_other,
    test_cancel_stops_the_work,
    test_chunks_are_small_and_final_rides_on_the_last,
    test_describes_itself,
    test_every_voice_speaks_at_the_same_level_at_once,
    test_is_decoupled_with_one_instance,
    test_nothing_to_say_is_final_without_audio,
    test_speed_changes_the_length,
    test_streams_at_the_same_time_do_not_cross,
    test_the_gateways_own_client_is_content,
)
from tests.support.exported import changeable, exported
from tests.support.stack import Stack, skip_without_triton

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

FAMILIES = ("vits", "piper")
SERVED = "tts_vits_served"
SENTENCE = "Two boats came home this morning, and the harbour was quiet again."
"""What the exporter recorded torch's audio of."""
STEP = 1.5 / 32768
"""One of int16, which engines hand over."""
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The exported ones; that of VITS with a second front whose graphs the server runs."""
    skip_without_triton()
    made = {
        family: changeable(exported(family, "seed=0", "speakers=2"), tmp_path_factory.mktemp(family))
        for family in FAMILIES
    }
    for family, repository in made.items():
        front = repository / f"tts_{family}_small" / "1" / "front.json"
        with np.load(front.parents[1] / "reference" / "front.npz") as told:
            front.write_text(json.dumps(json.loads(front.read_text()) | {"seed": int(told["seed_0"])}))
    served = made["vits"] / SERVED
    shutil.copytree(made["vits"] / "tts_vits_small", served)
    text = (served / "config.pbtxt").read_text().replace('name: "tts_vits_small"', f'name: "{SERVED}"', 1)
    by = 'parameters [\n  { key: "graphs_by", value: { string_value: "triton" } },'
    (served / "config.pbtxt").write_text(text.replace("parameters [", by, 1))
    return made


@pytest.fixture(scope="module")
def stack(repositories: dict[str, Path]) -> Iterator[Stack]:
    graphs = sorted(folder.name for folder in repositories["vits"].glob("graph_*"))
    fronts = [f"tts_{family}_small" for family in FAMILIES]
    with Stack([*graphs, SERVED, *fronts], repositories=list(repositories.values())) as stack:
        assert not stack.triton.failed
        yield stack


@pytest_asyncio.fixture(loop_scope="session")
async def client(stack: Stack) -> Any:
    made = Client(stack.triton.grpc, f"{stack.triton.metrics}/metrics")
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="session", params=[f"tts_{family}_small" for family in FAMILIES])
async def tts_config(request: pytest.FixtureRequest, client: Client) -> Any:
    return await client.config(request.param)


async def heard_from(client: Client, model: str, text: str, **inputs: Any) -> Array:
    async with client.speak(await client.config(model), text, **inputs) as speech:
        return np.concatenate([part.audio async for part in speech])


def leveled(audio: Array, gain: float, rate: int) -> Array:
    """As voices do it: silence at the start trimmed, level set, peaks bent."""
    return limited(Trim(rate)(audio.astype(np.float32) * gain))


@pytest.mark.parametrize(
    ("family", "model"), [("vits", "tts_vits_small"), ("vits", SERVED), ("piper", "tts_piper_small")]
)
async def test_it_says_what_the_whole_model_said_in_torch(
    client: Client, repositories: dict[str, Path], family: str, model: str
) -> None:
    """Streamed in windows, from the server, by the front's own runtime or by the server's models."""
    folder = Folder(repositories[family] / f"tts_{family}_small" / "1")
    voice, rate = folder.front["voices"][0], int(folder.front["sample_rate"])
    with np.load(folder.version.parent / "reference" / "front.npz") as told:
        wanted = leveled(told["audio_0"], voice["gain"], rate)
    heard = await heard_from(client, model, SENTENCE, VOICE=voice["name"])
    assert len(heard) == len(wanted)
    assert np.abs(heard - wanted).max() <= STEP * max(voice["gain"], 1) + 1e-4
    assert wanted.std() > 0.03


async def test_graphs_that_the_server_runs_bear_many_at_a_time(client: Client) -> None:
    alone = await heard_from(client, SERVED, "Good morning.")
    together = await asyncio.gather(*(heard_from(client, SERVED, "Good morning.") for _ in range(8)))
    assert all(len(one) == len(alone) and np.abs(one - alone).max() <= 2 * STEP for one in together)


async def test_speakers_sound_different(client: Client) -> None:
    one, other = [await heard_from(client, "tts_vits_small", SENTENCE, VOICE=f"speaker-{n}") for n in (1, 2)]
    size = min(len(one), len(other))
    assert np.abs(one[:size] - other[:size]).max() > 0.05
