"""Archives that somebody made to do harm."""

from __future__ import annotations

import io
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from gateway.triton.pulling.archives import unpack
from gateway.triton.pulling.errors import PullError


def packed(tmp_path: Path, *members: tarfile.TarInfo, content: bytes = b"x") -> Path:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            member.size = len(content) if member.isfile() else 0
            tar.addfile(member, io.BytesIO(content) if member.isfile() else None)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def opened(archive: Path, tmp_path: Path, **bounds: int) -> Path:
    return unpack(archive, archive.name, tmp_path / "out", stop=threading.Event(), **bounds)


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "a//b", "..", "a/.."]
)
def test_no_path_leads_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(PullError, match="outside"):
        opened(packed(tmp_path, member("good"), member(name)), tmp_path)
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz"]


@pytest.mark.parametrize(
    ("link", "kind"),
    [("/etc/passwd", tarfile.SYMTYPE), ("../../x", tarfile.SYMTYPE), ("..", tarfile.SYMTYPE), ("/etc/passwd", tarfile.LNKTYPE),
     ("missing", tarfile.SYMTYPE), ("l", tarfile.SYMTYPE), (".", tarfile.SYMTYPE)],
)  # fmt: skip
def test_no_link_leads_out(tmp_path: Path, link: str, kind: bytes) -> None:
    with pytest.raises(PullError, match="link to something that is no file of the archive"):
        opened(packed(tmp_path, member("good"), member("l", kind, link)), tmp_path)


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    members = [member("d", tarfile.SYMTYPE, str(tmp_path / "outside")), member("d/evil")]
    with pytest.raises(PullError):
        opened(packed(tmp_path, *members), tmp_path)
    assert list((tmp_path / "outside").iterdir()) == []


def test_links_within_become_files(tmp_path: Path) -> None:
    members = [
        member("m/a/one"),
        member("m/b/two", tarfile.SYMTYPE, "../a/one"),
        member("m/three", tarfile.LNKTYPE, "m/b/two"),
    ]
    content = opened(packed(tmp_path, *members, content=b"same"), tmp_path)
    assert content.name == "m"
    for name in ("a/one", "b/two", "three"):
        assert (content / name).read_bytes() == b"same"
        assert not (content / name).is_symlink()


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_no_devices(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(PullError, match="neither a file nor a folder"):
        opened(packed(tmp_path, member("dev", kind)), tmp_path)


def test_a_name_twice(tmp_path: Path) -> None:
    with pytest.raises(PullError, match="cannot be unpacked: file exists"):
        opened(packed(tmp_path, member("a"), member("a")), tmp_path)


def test_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(8 << 20))
    with pytest.raises(PullError, match=r"more than 1\.0 MB"):
        opened(path, tmp_path, most=1_000_000)
    with pytest.raises(PullError, match="more than 2 files"):
        opened(packed(tmp_path, *[member(str(n)) for n in range(3)]), tmp_path, files=2)
    assert not (tmp_path / "out").exists()


def test_a_link_in_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    info = zipfile.ZipInfo("l")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(PullError, match="a link or no file"):
        opened(path, tmp_path)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip", "a.tar.xz", "a.tar"])
def test_what_is_no_archive(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"rubbish" * 1000)
    with pytest.raises(PullError, match=rf"{name} cannot be unpacked"):
        opened(tmp_path / name, tmp_path)


def test_a_cut_one(tmp_path: Path) -> None:
    whole = packed(tmp_path, member("a"), content=bytes(range(256)) * 4000)
    whole.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(PullError, match="cannot be unpacked"):
        opened(whole, tmp_path)
