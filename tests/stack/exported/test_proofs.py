"""Every family's small model: torch against ONNX Runtime, implicit states, Triton, and a session on Triton."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.triton.exported.families import ASR_FAMILIES, CODEC_FAMILIES, TTS_FAMILIES
from gateway.triton.proof.fronts import SESSION
from gateway.triton.proof.graphs import ORT
from gateway.triton.proof.prove import prove
from gateway.triton.proof.served import TRITON
from tests.support.exported import changeable, exported

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("runnable")]


def front_of(repository: Path) -> Path:
    return next(path.parent for path in sorted(repository.glob("*/provenance.json")))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", [*ASR_FAMILIES, *TTS_FAMILIES, *CODEC_FAMILIES])
async def test_a_small_model_equals_torch_wherever_it_runs(family: str) -> None:
    found = await prove(front_of(exported(family)))
    assert not [one for one in found if not one.ok]
    hows = {one.how for one in found}
    assert {ORT, TRITON, SESSION} <= hows
    # A codec's front is loaded alone: what it says is another model's.
    silent = {SESSION} if family in CODEC_FAMILIES else set()
    assert all(one.compared for one in found if one.how not in silent)


@pytest.mark.timeout(600)
def test_verify_says_which_graph_differs(tmp_path: Path) -> None:
    repository = changeable(exported("vits"), tmp_path)
    front = front_of(repository).name
    whole = verify(repository, front)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "differs" not in whole.stdout
    graph = repository / f"graph_{front}_decoder" / "1" / "model.onnx"
    spoil(graph)
    broken = verify(repository, front)
    assert broken.returncode == 1
    assert "differs" in broken.stdout
    told = json.loads(verify(repository, front, "--json", "--no-triton").stdout)
    assert [one["model"] for one in told["proofs"] if not one["ok"]] == [graph.parents[1].name]


@pytest.mark.timeout(600)
def test_verify_says_what_a_voice_without_its_environment_needs() -> None:
    repository = exported("csm", "temperature=0")
    said = verify(repository, front_of(repository).name)
    assert said.returncode == 1
    assert "not proved" in said.stdout
    assert "differs" not in said.stdout
    told = json.loads(verify(repository, front_of(repository).name, "--json").stdout)
    (proof,) = told["proofs"]
    wanted = f"tts_csm_small needs torch and transformers, in an environment of its own: scripts/families {front_of(repository)}"
    assert proof["note"].startswith(wanted)


def verify(repository: Path, model: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "gateway.cli",
        "models",
        "verify",
        model,
        "--repository",
        str(repository),
    ]
    return subprocess.run(
        [*command, *more], capture_output=True, text=True, timeout=300, check=False, env=None
    )


def spoil(path: Path) -> None:
    """Some weights in the middle of the file become others."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4_000] = bytes(byte ^ 0x08 for byte in content[middle : middle + 4_000])
    path.write_bytes(content)
