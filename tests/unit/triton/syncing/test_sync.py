"""A repository is made like another: what is brought, what is refused, and what is there after a kill at any point."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.triton.syncing import sync as module
from gateway.triton.syncing.manifest import SyncError, parse_manifest, sums_of, write_manifest
from gateway.triton.syncing.source import open_source
from gateway.triton.syncing.sync import Synced, sync
from tests.support.object_store import CREDENTIALS, object_store
from tests.support.stack import TEST_MODELS

SUM = "0" * 64


def repository(path: Path, **models: dict[str, bytes]) -> Path:
    """With its manifest."""
    for name, files in models.items():
        for inner, content in files.items():
            (path / name / inner).parent.mkdir(parents=True, exist_ok=True)
            (path / name / inner).write_bytes(content)
    write_manifest(path, sums_of(path))
    return path


def bring(source: Path | str, dest: Path, **options: object) -> Synced:
    return sync(open_source(str(source)), str(source), dest, **options)  # type: ignore[arg-type]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return repository(
        tmp_path / "source",
        asr_a={"config.pbtxt": b"a", "1/model.py": b"x" * 70_000, "1/data/words.txt": b"w"},
        tts_b={"config.pbtxt": b"b", "1/model.onnx": os.urandom(300_000)},
    )


def test_the_manifest_is_what_sha256sum_writes_and_checks(source: Path) -> None:
    (source / "asr_a" / "__pycache__").mkdir()
    (source / "asr_a" / "__pycache__" / "x.pyc").write_bytes(b"1")
    assert main(["models", "manifest", str(source)]) == 0
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=source, check=False
    )
    assert done.returncode == 0
    assert parse_manifest((source / "SHA256SUMS").read_text(), "x") == sums_of(source)
    assert main(["models", "manifest", str(source), "--check"]) == 0
    (source / "asr_a" / "1" / "model.py").write_bytes(b"changed")
    done = subprocess.run(["sha256sum", "--check", "--status", "SHA256SUMS"], cwd=source, check=False)
    assert done.returncode == 1
    assert main(["models", "manifest", str(source), "--check"]) == 1


def test_what_differs_is_brought_and_nothing_else(source: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    first = bring(source, dest)
    assert (first.brought, first.same) == (["asr_a", "tts_b"], [])
    assert sums_of(dest) == sums_of(source)
    again = bring(source, dest)
    assert (again.brought, again.same, again.read_bytes) == ([], ["asr_a", "tts_b"], 0)
    untouched = (dest / "tts_b" / "1" / "model.onnx").stat().st_ino
    repository(source, asr_a={"1/model.py": b"new"})
    (dest / "asr_a" / "stray").write_bytes(b"1")
    third = bring(source, dest)
    assert (third.brought, third.read_bytes) == (["asr_a"], 3)
    assert sums_of(dest) == sums_of(source)
    assert (dest / "tts_b" / "1" / "model.onnx").stat().st_ino == untouched
    assert {one.name for one in dest.iterdir()} == {"asr_a", "tts_b", "SHA256SUMS", ".sync.lock"}


def test_an_ensemble_has_a_version_though_no_file_is_in_it(tmp_path: Path) -> None:
    source = repository(tmp_path / "source", both={"config.pbtxt": b'platform: "ensemble"'})
    (source / "both" / "1").mkdir()
    dest = tmp_path / "dest"
    bring(source, dest)
    assert (dest / "both" / "1").is_dir(), "Triton takes no model without a version"
    (dest / "both" / "1").rmdir()
    assert bring(source, dest).same == ["both"]
    assert (dest / "both" / "1").is_dir()


def test_models_that_the_source_lacks_stay_unless_pruned(source: Path, tmp_path: Path) -> None:
    dest = repository(tmp_path / "dest", own={"config.pbtxt": b"o"})
    (dest / ".syncing-old").mkdir()
    bring(source, dest, only=["asr_a"])
    assert set(sums_of(dest)) == {"asr_a", "own"}
    assert parse_manifest((dest / "SHA256SUMS").read_text(), "x") == sums_of(dest)
    assert bring(source, dest, prune=True).removed == ["own"]
    assert sums_of(dest) == sums_of(source)
    assert not (dest / ".syncing-old").exists()


def test_a_file_that_is_not_what_the_manifest_says_is_refused_and_the_old_model_stays(
    source: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    bring(source, dest)
    before = sums_of(dest)
    repository(source, tts_b={"1/model.onnx": b"new" * 1_000})
    (source / "tts_b" / "1" / "model.onnx").write_bytes(b"bad" * 1_000)
    with pytest.raises(SyncError, match=r"tts_b/1/model.onnx is not what the manifest says"):
        bring(source, dest)
    assert sums_of(dest) == before
    (source / "tts_b" / "1" / "model.onnx").unlink()
    with pytest.raises(SyncError, match="is in the manifest and not there"):
        bring(source, dest)
    assert sums_of(dest) == before


def test_what_had_come_is_not_read_again(source: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    whole = (source / "tts_b" / "1" / "model.onnx").read_bytes()
    work = dest / ".syncing-tts_b" / "1"
    work.mkdir(parents=True)
    (work / "model.onnx.part").write_bytes(whole[:200_000])
    (work / "of another version").write_bytes(b"1")
    assert bring(source, dest, only=["tts_b"]).read_bytes == len(whole) - 200_000 + 1
    assert sums_of(dest)["tts_b"] == sums_of(source)["tts_b"]
    shutil.rmtree(dest)
    work.mkdir(parents=True)
    (work / "model.onnx.part").write_bytes(b"?" * 200_000)
    bring(source, dest, only=["tts_b"])  # what had come is of no use, and read again
    assert sums_of(dest)["tts_b"] == sums_of(source)["tts_b"]


@pytest.mark.parametrize("died_between", [True, False])
def test_where_names_cannot_be_exchanged_a_run_that_died_is_made_good(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, died_between: bool
) -> None:
    monkeypatch.setattr(module, "exchange", lambda one, other: False)
    dest = tmp_path / "dest"
    bring(source, dest)
    repository(source, asr_a={"1/model.py": b"new"})
    if died_between:
        os.rename(dest / "asr_a", dest / ".replaced-asr_a")
    else:
        shutil.copytree(dest / "asr_a", dest / ".replaced-asr_a")
    bring(source, dest)
    assert sums_of(dest) == sums_of(source)
    assert not (dest / ".replaced-asr_a").exists()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "x",
        f"{SUM}  ../etc/passwd",
        f"{SUM}  /etc/passwd",
        f"{SUM}  m/../../x",
        f"{SUM}  top",
        f"{SUM}  .m/x",
        "0  m/x",
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "SHA256SUMS").write_text(line)
    with pytest.raises(SyncError, match="parley models manifest"):
        bring(tmp_path, tmp_path / "dest")
    assert not (tmp_path / "dest").exists()


def test_mistakes_are_one_sentence(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    (tmp_path / "bare").mkdir()
    for arguments, sentence in (
        ([str(tmp_path / "none"), str(tmp_path / "d")], "does not exist: is its volume mounted?"),
        ([str(tmp_path / "bare"), str(tmp_path / "d")], "has no SHA256SUMS: write it there with"),
        ([str(source), str(blocked / "d")], "cannot write to"),
        ([str(source), str(tmp_path / "d"), "--model", "zz"], "has no model zz: there is asr_a, tts_b"),
        (["s3://", str(tmp_path / "d")], "names no bucket"),
    ):
        assert main(["models", "sync", *arguments]) == 1
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
    assert main(["models", "manifest", str(tmp_path / "bare")]) == 1
    assert "holds no model folder" in capsys.readouterr().err


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("credentials")
def test_from_an_object_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    local = tmp_path / "local"
    for name in ("tts_tone", "asr_count"):
        shutil.copytree(TEST_MODELS / name, local / name, ignore=shutil.ignore_patterns("__pycache__"))
    big = random.Random(1).randbytes(9 << 20)  # more than one piece
    (local / "tts_tone" / "1" / "weights.bin").write_bytes(big)
    write_manifest(local, sums_of(local))
    dest = tmp_path / "dest"
    with object_store(local / "tts_tone", local / "asr_count") as url:
        assert main(["models", "sync", url, str(dest)]) == 1
        assert "has no SHA256SUMS" in capsys.readouterr().err
    with object_store(local / "tts_tone", local / "asr_count", also=[local / "SHA256SUMS"]) as url:
        (dest / ".syncing-tts_tone" / "1").mkdir(parents=True)
        (dest / ".syncing-tts_tone" / "1" / "weights.bin.part").write_bytes(big[: 5 << 20])
        assert main(["models", "sync", url, str(dest)]) == 0
        assert sums_of(dest) == sums_of(local)
        assert (dest / "tts_tone" / "1" / "weights.bin").stat().st_size == 9 << 20
        capsys.readouterr()
        assert main(["models", "sync", url, str(dest)]) == 0
        assert "0 models brought (0.0 MB read), 2 as they were" in capsys.readouterr().out
    assert main(["models", "sync", url, str(dest)]) == 1  # the store is gone
    assert "cannot be read" in capsys.readouterr().err


def versions(dest: Path, sources: list[Path]) -> Iterator[str]:
    """Which source each model that is there is of, and "" for one that is of none."""
    known = [sums_of(source) for source in sources]
    for name in ("big_a", "big_b"):
        if (dest / name).exists():
            its = {
                path.relative_to(dest / name).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted((dest / name).rglob("*"))
                if path.is_file()
            }
            yield next((str(n) for n, one in enumerate(known) if one[name] == its), "")


def test_killed_at_any_point_the_repository_can_be_used_and_the_next_run_ends_it(tmp_path: Path) -> None:
    chance = random.Random(7)
    sources = [
        repository(
            tmp_path / f"source{n}",
            **{
                name: {
                    "config.pbtxt": bytes([n]),
                    **{f"1/{k}.bin": chance.randbytes(1 << 20) for k in range(12)},
                }
                for name in ("big_a", "big_b")
            },
        )
        for n in range(2)
    ]
    dest = tmp_path / "dest"
    bring(sources[0], dest)
    kills = 0
    for attempt in range(4):
        wanted = sources[(attempt + 1) % 2]
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", "models", "sync", str(wanted), str(dest)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        process.stdout.readline()  # it has begun with a model
        time.sleep(chance.random() * 0.06)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = list(versions(dest, sources))
        assert len(found) == 2, "a model was not there"
        assert all(found), "a model was there in parts"
    assert kills, "none was killed in the middle"
    bring(sources[1], dest)
    assert list(versions(dest, sources)) == ["1", "1"]
    assert sums_of(dest) == sums_of(sources[1])
