"""Files and archives from anywhere."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
import zipfile
from glob import glob
from pathlib import Path
from typing import Literal

import pytest

from gateway.triton.pulling.errors import LicenceRefused, PullError
from gateway.triton.pulling.licences import Licence
from gateway.triton.pulling.pull import pull
from gateway.triton.pulling.sources import FolderSource, HubSource, UrlSource, Wanted, source_of
from gateway.triton.pulling.web import Web
from tests.support.hub import Hub
from tests.unit.triton.pulling.pulling import WEIGHTS, Counts, Puller, content_of

PIPER = {"voice.onnx": WEIGHTS, "voice.onnx.json": b"{}", "MODEL_CARD": b"# voice"}


def tar_of(files: dict[str, bytes], mode: Literal["w:gz", "w:bz2"] = "w:gz") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


async def test_a_file(hub: Hub, puller: Puller) -> None:
    hub.plain["some/voice.onnx"] = WEIGHTS
    url = f"{hub.cdn}/plain/some/voice.onnx"
    pulled = await puller(f"{url}#sha256={hashlib.sha256(WEIGHTS).hexdigest()}")
    assert content_of(pulled.path) == {"voice.onnx": WEIGHTS}
    assert pulled.record["source"] == url
    assert pulled.path.parent == puller.cache / "url"
    assert (await puller(f"{url}#sha256={hashlib.sha256(WEIGHTS).hexdigest()}")).fresh is False
    assert puller.asked == [Licence()]
    with pytest.raises(PullError, match="does not have the checksum"):
        await puller(f"{url}#sha256={'0' * 64}")


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("voice.tar.gz", tar_of({f"voice-1/{name}": content for name, content in PIPER.items()})),
        ("voice.tar.bz2", tar_of(PIPER, "w:bz2")),
        ("voice.zip", zip_of({f"./{name}": content for name, content in PIPER.items()})),
    ],
)
async def test_an_archive_becomes_its_content(hub: Hub, puller: Puller, name: str, packed: bytes) -> None:
    hub.plain[name] = packed
    hub.faults[name] = ["", "cut"]
    pulled = await puller(f"{hub.cdn}/plain/{name}")
    assert content_of(pulled.path) == PIPER
    assert pulled.record["files"] == {
        name: {"size": len(packed), "sha256": hashlib.sha256(packed).hexdigest()}
    }
    assert puller.left_over() == []


async def test_a_url_whose_content_changed_is_another_folder_and_without_any_tag_pulled_again(
    hub: Hub, puller: Puller
) -> None:
    url = f"{hub.cdn}/plain/m.onnx"
    hub.plain["m.onnx"] = b"one"
    first = await puller(url)
    hub.plain["m.onnx"] = b"two"
    assert content_of((await puller(url)).path) == {"m.onnx": b"two"}
    assert content_of(first.path) == {"m.onnx": b"one"}
    hub.etags = False
    assert content_of((await puller(url)).path) == {"m.onnx": b"two"}
    hub.plain["m.onnx"] = b"six"
    assert content_of((await puller(url)).path) == {"m.onnx": b"six"}


async def test_a_licence_that_only_the_archive_tells_is_asked_for_before_anything_is_in_place(
    hub: Hub, tmp_path: Path
) -> None:
    licence = b"Attribution-NonCommercial 4.0 International\n\nCreative Commons ..."
    hub.plain["v.tar.gz"] = tar_of({**PIPER, "LICENSE": licence})

    async def consent(name: str, licence: Licence, size: int | None) -> str:
        if licence.noncommercial:
            raise LicenceRefused(f"{name}: {licence.id}")
        return "needs none"

    async with Web() as web:
        wanted = Wanted(UrlSource(f"{hub.cdn}/plain/v.tar.gz"))
        with pytest.raises(LicenceRefused, match=r"CC-BY-NC-4\.0"):
            await pull(wanted, web, Counts(), consent, into=tmp_path)
    assert not any(
        path.endswith(".pulled.json") for path in glob(f"{tmp_path}/**", recursive=True, include_hidden=True)
    )


async def test_a_folder_is_used_where_it_is(hub: Hub, puller: Puller, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_bytes(b"{}")
    pulled = await puller(str(tmp_path / "mine"))
    assert pulled.path == tmp_path / "mine"
    assert list(pulled.record["files"]) == ["config.json"]
    assert not puller.cache.exists()


async def test_cancelled_while_it_unpacks(hub: Hub, puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.triton.pulling import archives

    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    unpack = archives._Room.file

    def slow(self: archives._Room, path: str, source: io.BytesIO) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert self._stop.wait(10)
        unpack(self, path, source)

    monkeypatch.setattr(archives._Room, "file", slow)
    hub.plain["v.tar.gz"] = tar_of(PIPER)
    pulling = asyncio.create_task(puller(f"{hub.cdn}/plain/v.tar.gz"))
    await asyncio.wait_for(begun.wait(), 10)
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    assert puller.left_over() == ["v.tar.gz"]  # whole, and not asked for again
    monkeypatch.setattr(archives._Room, "file", unpack)
    assert content_of((await puller(f"{hub.cdn}/plain/v.tar.gz")).path) == PIPER


class TestSources:
    def test_what_a_person_may_write(self, tmp_path: Path) -> None:
        hub = "https://hub.example"
        assert source_of("a/b") == HubSource("a/b")
        assert source_of("hf:a/b@v1") == HubSource("a/b", "v1")
        assert source_of(f"{hub}/a/b", endpoint=hub) == HubSource("a/b")
        assert source_of(f"{hub}/a/b/tree/refs%2Fpr%2F1", endpoint=hub) == HubSource("a/b", "refs/pr/1")
        assert source_of(f"{hub}/a/b/resolve/main/x.onnx", endpoint=hub) == UrlSource(
            f"{hub}/a/b/resolve/main/x.onnx"
        )
        assert source_of(f"https://x.example/f#sha256={'AB' * 32}") == UrlSource(
            "https://x.example/f", "ab" * 32
        )
        assert source_of(str(tmp_path)) == FolderSource(tmp_path)

    @pytest.mark.parametrize(
        "text", ["nothing", "a/b/c", "/no/such/folder", "../x", "ftp://x/y", "hf:x", "a/b@"]
    )
    def test_what_is_none(self, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)  # what lies beside a checkout is nothing to it
        with pytest.raises(PullError, match="is no entry of the catalogue"):
            source_of(text)

    def test_a_fragment_that_is_no_checksum(self) -> None:
        with pytest.raises(PullError, match="64 hexadecimal digits"):
            source_of("https://x.example/f#md5=1")
