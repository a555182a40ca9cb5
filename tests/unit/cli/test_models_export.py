"""`parley models export`: what the exporter is told, with a hub on this machine and no torch."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from gateway.cli.common import Fault
from gateway.cli.models.export import configure_export, run_export_verb
from gateway.triton.exported.environment import ExportUnavailable
from tests.support.hub import Hub

CATALOGUE = """
models:
  mouth: {family: speecht5, kind: tts, source: "hf:some/mouth", licence: MIT, parts: {vocoder: "hf:some/vocoder"},
    options: {threshold: "0.4"}}
"""


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Hub]:
    for name in [one for one in os.environ if one.lower().endswith("_proxy") or one.startswith("PARLEY_")]:
        monkeypatch.delenv(name)
    (tmp_path / "catalogue.yaml").write_text(CATALOGUE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    async with Hub() as one:
        monkeypatch.setenv("HF_ENDPOINT", one.url)
        one.add("some/Ears-1", {"config.json": b"{}", "model.safetensors": b"1" * 99}, licence="cc-by-4.0")
        one.add("some/mouth", {"config.json": b"{}", "model.safetensors": b"2" * 99})
        one.add("some/vocoder", {"config.json": b"{}", "model.safetensors": b"3" * 99})
        yield one


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the exporter was told, each time."""
    found: list[list[str]] = []

    async def run(arguments: Sequence[str]) -> int:
        found.append(list(arguments))
        return 0

    monkeypatch.setattr("gateway.cli.models.export.run_export", run)
    return found


async def export(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    configure_export(parser)
    return await run_export_verb(parser.parse_args(["--out", "models", *arguments]))


BASE = ["--out", "models", "--seed", "0"]


async def test_random_weights_and_folders_are_handed_on(tmp_path: Path, asked: list[list[str]]) -> None:
    await export("whisper", "random:small", "--name", "asr_x", "--option", "beam=2")
    await export("whisper", str(tmp_path), "--license", "MIT", "--revision", "r1")
    assert asked == [
        ["whisper", "random:small", *BASE, "--name", "asr_x", "--option", "beam=2"],
        ["whisper", str(tmp_path), *BASE, "--revision", "r1", "--license", "MIT"],
    ]


async def test_an_id_is_pulled_and_its_origin_told(hub: Hub, asked: list[list[str]]) -> None:
    commit = hub.repositories["some/Ears-1"].commit
    origin = ["--called", "some/Ears-1", "--revision", commit, "--license", "CC-BY-4.0"]
    await export("whisper", "some/Ears-1")
    folder = Path(asked[0][1])
    assert (folder / "model.safetensors").read_bytes() == b"1" * 99
    assert asked[0] == ["whisper", str(folder), *BASE, *origin]
    # Pulled once; the folder itself knows the same, and so does the commit.
    await export("whisper", str(folder))
    await export("whisper", "some/Ears-1", "--revision", commit)
    assert asked[1:] == [asked[0]] * 2
    assert [one.host for one in hub.asked_for("model.safetensors")] == ["hub", "cdn"]


async def test_what_the_person_says_of_the_licence_wins(hub: Hub, asked: list[list[str]]) -> None:
    await export("whisper", "some/Ears-1", "--license", "MIT")
    assert asked[0][-2:] == ["--license", "MIT"]
    await export("whisper", "some/Ears-1", "--option", "license=BSD-3-Clause")
    assert "--license" not in asked[1]
    assert asked[1][-2:] == ["--option", "license=BSD-3-Clause"]


async def test_a_name_of_the_catalogue_brings_its_parts_and_options(
    hub: Hub, asked: list[list[str]], tmp_path: Path
) -> None:
    catalogue = ("--catalogue", str(tmp_path / "catalogue.yaml"))
    await export("speecht5", "mouth", *catalogue)
    folder = Path(asked[0][1])
    options = [its for word, its in itertools.pairwise(asked[0]) if word == "--option"]
    assert options == [f"vocoder={folder / 'vocoder'}", "threshold=0.4"]
    assert asked[0][asked[0].index("--name") + 1] == "tts_mouth"  # as `parley models pull mouth` calls it
    assert (folder / "vocoder" / "model.safetensors").read_bytes() == b"3" * 99
    assert asked[0][asked[0].index("--license") + 1] == "MIT"
    with pytest.raises(Fault, match="mouth is of the family speecht5, not vits"):
        await export("vits", "mouth", *catalogue)


async def test_a_licence_is_asked_for_before_anything_is_pulled(hub: Hub, asked: list[list[str]]) -> None:
    hub.add("some/dear", {"config.json": b"{}", "model.safetensors": b"4"}, licence="cc-by-nc-4.0")
    with pytest.raises(Fault, match=r"pull it with --accept-license CC-BY-NC-4\.0 if you may use it"):
        await export("vits", "some/dear")
    assert not asked
    assert not hub.asked_for("model.safetensors")
    await export("vits", "some/dear", "--accept-license", "CC-BY-NC-4.0")
    assert "CC-BY-NC-4.0" in asked[0]


async def test_what_is_no_checkpoint(hub: Hub, asked: list[list[str]]) -> None:
    hub.add("some/ready", {"config.pbtxt": b'name: "x"', "1/model.onnx": b"5"})
    with pytest.raises(
        Fault, match=r"some/ready is no checkpoint but ready for Triton: `parley models pull`"
    ):
        await export("vits", "some/ready")
    with pytest.raises(Fault, match="no folder here"):
        await export("vits", "nothing-of-that-name")
    with pytest.raises(Fault, match="some/nothing"):
        await export("vits", "some/nothing")
    with pytest.raises(Fault, match=r"unknown family tacotron; known: whisper"):
        await export("tacotron", "random:small")
    assert not asked


async def test_no_environment_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(_: Sequence[str]) -> int:
        raise ExportUnavailable("uv is missing")

    monkeypatch.setattr("gateway.cli.models.export.run_export", run)
    with pytest.raises(Fault, match=r"^uv is missing$"):
        await export("vits", "random:small")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("langauge=de", "whisper has no option langauge; it has multilingual"),
        ("beam=wide", "option beam=wide must be a whole number from 1 to 8"),
        ("beam", "--option beam is no KEY=VALUE"),
    ],
)
async def test_an_option_that_cannot_be_is_refused_before_anything_is_pulled(
    option: str, said: str, hub: Hub, asked: list[list[str]]
) -> None:
    with pytest.raises(Fault, match=said):
        await export("whisper", "some/Ears-1", "--option", option)
    assert not asked
    assert not hub.asked_for("")


async def test_what_cannot_be_is_a_sentence_before_anything_is_pulled(
    hub: Hub, asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "ears").mkdir()
    (tmp_path / "ears" / "config.json").write_text('{"model_type": "whisper"}')
    for arguments, said in {
        ("vits", "some/Ears-1", "--name", "../mine"): "'../mine' is no name for a model",
        ("vits", "some/Ears-1", "--out", str(tmp_path / "file" / "x")): "file is a file, no model repository",
        ("vits", str(tmp_path / "nowhere")): "there is no folder .*/nowhere$",
        ("vits", str(tmp_path / "file")): "is a file; name the folder that it is in",
        ("vits", "random:smal"): "after random: comes small, or the path of a config.json; there is no smal",
        ("vits", str(tmp_path / "ears")): "ears is of the family whisper, not vits",
    }.items():
        with pytest.raises(Fault, match=said):
            await export(*arguments)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(Fault, match=r"cannot write into models: .* is not writable for this user"):
        await export("whisper", "some/Ears-1")
    assert not asked
    assert not hub.asked_for("")


async def test_ended_from_outside_it_ends_the_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    async def run(_: Sequence[str]) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            return await asyncio.sleep(30, 0)
        finally:
            ended.append(True)

    monkeypatch.setattr("gateway.cli.models.export.run_export", run)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # where nothing listens, the test goes on
    try:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.create_task(export("whisper", "random:small")), 20)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended
