"""scripts/build: the command for each engine, and one sentence for each mistake."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway import __version__
from tests.support.image_trees import ROOT

_DIGEST = "sha256:" + "0" * 64


def _build(*words: str, path: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path or os.environ["PATH"], **variables}
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / "build"), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with what the script needs and no container engine."""
    for name in ("bash", "sed", "git", "dirname"):
        found = shutil.which(name)
        if found:
            (tmp_path / name).symlink_to(found)
    return tmp_path


def _engine(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("what", "image", "has"),
    [
        ("gateway", f"parley:{__version__}", ["--file", "Dockerfile"]),
        ("triton", f"parley-triton:{__version__}", ["--file", "triton/Dockerfile", "--target", "gpu"]),
        (
            "triton-cpu",
            f"parley-triton:{__version__}-cpu",
            ["--file", "triton/Dockerfile", "--target", "cpu"],
        ),
    ],
)
def test_each_image_has_its_file_its_target_and_its_name(what: str, image: str, has: list[str]) -> None:
    done = _build(what, "--dry-run", "--engine", "docker")
    assert done.returncode == 0, done.stderr
    command = shlex.split(done.stdout)
    assert command[:3] == ["docker", "buildx", "build"]
    assert command[-1] == "."
    for word in [*has, image, f"VERSION={__version__}"]:
        assert word in command


def test_every_option_is_in_the_command() -> None:
    done = _build(
        "triton-cpu", "--dry-run", "--engine", "podman", "--registry", "r.example/x", "--tag", "t1", "--push",
        "--platform", "linux/amd64", "--base", f"debian:bookworm-slim@{_DIGEST}", "--models", "tts_flite tts_espeak",
        "--locks", "embedded cloud espeak", PIP_CONFIG_FILE="/p.conf", UV_CONFIG_FILE="/u.toml",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    build, push = (shlex.split(line) for line in done.stdout.splitlines())
    for word in (
        "r.example/x/parley-triton:t1", "linux/amd64", f"BASE=debian:bookworm-slim@{_DIGEST}",
        "MODELS=tts_flite tts_espeak", "LOCKS=embedded cloud espeak", "id=pip,src=/p.conf", "id=uv,src=/u.toml",
    ):  # fmt: skip
        assert word in build
    assert push == ["podman", "push", "r.example/x/parley-triton:t1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say which image"),
        (["nosuch"], "there is no image nosuch"),
        (["gateway", "triton"], "one image at a time"),
        (["gateway", "--bogus"], "there is no option --bogus"),
        (["gateway", "--tag"], "--tag needs a value"),
        (["gateway", "--push"], "--push needs --registry"),
        (["gateway", "--models", "tts_flite"], "of the Triton images"),
        (["triton", "--models", "tts_nosuch"], "there is no model tts_nosuch"),
        (["triton", "--locks", "nosuch"], "there is no requirements/nosuch.lock"),
        (["triton", "--platform", "linux/arm64"], "linux/amd64 alone"),
        (["gateway", "--platform", "linux/amd64,linux/arm64"], "add --push"),
        (
            [
                "gateway",
                "--platform",
                "linux/amd64,linux/arm64",
                "--push",
                "--registry",
                "r",
                "--engine",
                "podman",
            ],
            "need docker",
        ),
        (["gateway", "--base", "debian:12"], "--base needs a digest"),
        (["gateway", "--engine", "rkt"], "there is no engine rkt"),
    ],
)
def test_wrong_usage_is_one_sentence_and_2(words: list[str], said: str) -> None:
    done = _build(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_an_engine_it_says_so(tools: Path) -> None:
    done = _build("gateway", path=str(tools))
    assert done.returncode == 1
    assert "no container engine works here" in done.stderr


def test_an_engine_whose_daemon_is_down_gives_way_to_the_next(tools: Path) -> None:
    _engine(tools, "docker", "exit 1")
    _engine(tools, "buildah", 'echo "buildah $*"')
    done = _build("gateway", path=str(tools))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("buildah build --file Dockerfile")
    assert f"parley:{__version__} is built" in done.stderr


def test_a_build_that_fails_is_1_and_nothing_is_pushed(tools: Path) -> None:
    _engine(tools, "podman", 'echo "$1" >> "$0.calls"; exit 5')
    done = _build("gateway", "--registry", "r.example", "--push", path=str(tools))
    assert done.returncode == 1
    assert "was not built" in done.stderr
    assert (tools / "podman.calls").read_text() == "build\n"
