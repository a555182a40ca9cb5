"""The Dockerfiles' text: linted, pinned, unprivileged, and nothing in them that the tests do not run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.image_trees import ROOT, STEPS, step

FILES = [ROOT / "Dockerfile", ROOT / "triton" / "Dockerfile"]


def _stages(file: Path) -> dict[str, list[str]]:
    """Instructions of each stage, by its name ("" for the last nameless one), continuation lines joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", file.read_text(), flags=re.M))
    stages: dict[str, list[str]] = {}
    current: list[str] = []
    for line in filter(None, text.splitlines()):
        if line.startswith("FROM "):
            current = stages.setdefault(line.partition(" AS ")[2], [])
        current.append(line)
    return stages


FINAL = [(FILES[0], ""), (FILES[1], "cpu"), (FILES[1], "gpu")]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.prefix, "bin", "hadolint")
    done = subprocess.run([hadolint, *FILES], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_would_say_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian:latest\nRUN cd /tmp && sudo apt-get install curl\n")
    done = subprocess.run(
        [Path(sys.prefix, "bin", "hadolint"), "-c", ROOT / ".hadolint.yaml", bad],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "DL3004" in done.stdout


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_base_is_pinned_by_digest(file: Path) -> None:
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", file.read_text(), re.M))
    bases = re.findall(r"^FROM \$\{(\w+)\}", file.read_text(), re.M)
    assert len(bases) == len(re.findall(r"^FROM ", file.read_text(), re.M)) > 1
    for base in bases:
        assert re.fullmatch(r"[a-z0-9./-]+:[\w.-]+@sha256:[0-9a-f]{64}", arguments[base])


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_run_is_one_script_of_the_repository(file: Path) -> None:
    link = 'RUN ["ln", "-s", "/opt/parley/licenses", "/licenses"]'
    runs = [line for stage in _stages(file).values() for line in stage if line.startswith("RUN ")]
    assert len(runs) >= 6
    for run in runs:
        if run != link:
            found = re.fullmatch(r"RUN (?:--mount=\S+ )+(?:/src/docker|)/steps/([a-z]+\.sh)( [a-z]+)?", run)
            assert found is not None, run
            assert (STEPS / found.group(1)).is_file(), run


@pytest.mark.parametrize(("file", "stage"), FINAL)
def test_an_image_is_unprivileged_and_carries_nothing_to_build_with(file: Path, stage: str) -> None:
    lines = _stages(file)[stage]
    users = [line for line in lines if line.startswith("USER ")]
    assert users[-1] == "USER 1000:1000"
    assert not any(word in line for line in lines for word in ("tools.sh", "packages.sh", "system.sh build"))
    labels = next(line for line in lines if line.startswith("LABEL "))
    for label in ("title", "description", "licenses", "version", "revision", "created"):
        assert f"org.opencontainers.image.{label}=" in labels
    assert any(line.startswith("ENTRYPOINT [") for line in lines)
    assert not any(line.startswith(("ADD ", "HEALTHCHECK", "VOLUME")) for line in lines)


def test_the_compiler_and_pip_are_in_no_package_list_of_an_image_that_runs() -> None:
    text = (STEPS / "system.sh").read_text()
    lists = dict(re.findall(r"^(\w+)\) apt_install ([^;]*?)(?:;.*)?$", text, re.M))
    assert set(lists) == {"build", "run", "triton", "gpu"}
    for name in ("run", "triton", "gpu"):
        assert not re.search(r"gcc|g\+\+|build-essential|-dev\b|python3-pip|python3\.11-venv", lists[name])


def test_only_what_images_are_made_of_goes_into_the_build() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = [rule[1:] for rule in rules if rule.startswith("!")]
    assert all(list(ROOT.glob(rule)) for rule in let_in)
    steps = "\n".join(file.read_text() for file in STEPS.iterdir())
    for used in re.findall(r"\$SOURCE/([\w.-]+)", steps):
        assert any(rule.split("/")[0] == used for rule in let_in), f"{used} is used by a step and not let in"


@pytest.mark.parametrize(
    ("name", "arguments", "variables", "said"),
    [
        ("packages.sh", (), {}, "name the locks"),
        ("packages.sh", (), {"LOCKS": "gateway nosuch"}, "there is no requirements/nosuch.lock"),
        ("models.sh", (), {}, "name the models"),
        ("models.sh", (), {"MODELS": "tts_nosuch"}, "there is no model tts_nosuch"),
        ("triton.sh", ("elsewhere",), {}, "say which server"),
        ("system.sh", (), {}, "say for what"),
    ],
)
def test_a_step_used_wrongly_says_what_to_do(
    name: str, arguments: tuple[str, ...], variables: dict[str, str], said: str, tmp_path: Path
) -> None:
    done = step(name, *arguments, prefix=tmp_path, **variables)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
