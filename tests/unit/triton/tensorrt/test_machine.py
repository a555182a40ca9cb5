"""What is found on a machine to build engines with; stand-ins for its programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.triton.tensorrt import machine

TRTEXEC = "echo '&&&& RUNNING TensorRT.trtexec [TensorRT v101303]'"


def put(folder: Path, **programs: str) -> None:
    for name, text in programs.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(machine, "_PLACES", ())
    return tmp_path


async def test_a_gpu_and_trtexec_are_all_that_is_needed(path: Path) -> None:
    put(path, nvidia_smi="echo 'NVIDIA H200, 9.0'", trtexec=TRTEXEC)
    builder, missing = await machine.find_builder()
    assert not missing
    assert builder == machine.Builder(str(path / "trtexec"), "10.13.3", "9.0", "NVIDIA H200")


@pytest.mark.parametrize(
    ("smi", "trtexec", "says"),
    [
        (
            "echo 'NVIDIA-SMI has failed: the driver, which must run, does not'; exit 9",
            TRTEXEC,
            "names no GPU",
        ),
        ("echo 'No devices were found'", TRTEXEC, "No devices were found"),
        ("exit 9", TRTEXEC, "no NVIDIA GPU here"),
        ("echo 'NVIDIA H200, 9.0'", "echo hello", "does not say its version"),
    ],
)
async def test_what_is_missing_is_said(path: Path, smi: str, trtexec: str, says: str) -> None:
    put(path, nvidia_smi=smi, trtexec=trtexec)
    builder, missing = await machine.find_builder()
    assert builder is None
    assert says in missing
