"""What is found on a machine to build engines with; stand-ins for its programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli import main
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
    assert builder.place == "nvidia-h200-sm90-trt10.13.3"


MIG = """GPU 0: NVIDIA H200 (UUID: GPU-1)
  MIG 1g.18gb     Device  0: (UUID: MIG-2)"""


async def test_what_is_built_is_kept_apart_by_gpu_slice_and_tensorrt(path: Path) -> None:
    places = []
    for name, listed, version in (
        ("NVIDIA H200, 9.0", "GPU 0: NVIDIA H200 (UUID: GPU-1)", "101303"),
        ("NVIDIA H200, 9.0", MIG, "101303"),
        ("NVIDIA H200, 9.0", MIG.replace("1g.18gb", "1g.18gb+me"), "101303"),
        ("NVIDIA H200, 9.0", MIG.replace("1g.18gb", "3g.71gb"), "101303"),
        ("NVIDIA H100 80GB HBM3, 9.0", "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)", "101303"),
        ("NVIDIA L4, 8.9", "GPU 0: NVIDIA L4 (UUID: GPU-1)", "101303"),
        ("NVIDIA L4, 8.9", "GPU 0: NVIDIA L4 (UUID: GPU-1)", "101304"),
    ):
        put(
            path,
            nvidia_smi=f"test $1 = -L && echo '{listed}' || echo '{name}'",
            trtexec=TRTEXEC.replace("101303", version),
        )
        builder, _ = await machine.find_builder()
        assert builder is not None
        places.append(builder.place)
    assert places == [
        "nvidia-h200-sm90-trt10.13.3",
        "nvidia-h200-mig-1g.18gb-sm90-trt10.13.3",
        "nvidia-h200-mig-1g.18gb+me-sm90-trt10.13.3",
        "nvidia-h200-mig-3g.71gb-sm90-trt10.13.3",
        "nvidia-h100-80gb-hbm3-sm90-trt10.13.3",
        "nvidia-l4-sm89-trt10.13.3",
        "nvidia-l4-sm89-trt10.13.4",
    ]


def test_the_command_prints_the_place(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "gpu"]) == 1
    assert "no NVIDIA GPU here" in capsys.readouterr().err
    put(path, nvidia_smi="test $1 = -L || echo 'NVIDIA L4, 8.9'", trtexec=TRTEXEC)
    assert main(["models", "gpu"]) == 0
    assert capsys.readouterr().out == "nvidia-l4-sm89-trt10.13.3\n"


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
