"""Several repositories at once, on the disk and in object stores."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gateway.settings import Settings
from gateway.triton.catalogue.object_store import Place, parse
from gateway.triton.catalogue.repositories import as_argument, is_url, read_repositories
from gateway.triton.catalogue.validate import validate
from gateway.triton.errors import TritonError
from tests.support.object_store import CREDENTIALS, object_store
from tests.unit.triton.catalogue.parts import asr, tts, write


async def test_models_of_all_repositories_are_read_and_a_name_in_two_is_said(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write(ours, "asr_x", asr())
    write(ours, "tts_x", tts())
    write(theirs, "tts_x", tts())
    write(theirs, "tts_y", tts("tts_y"))
    (ours / ".git").mkdir()
    (ours / "README.md").write_text("models")
    reading = await read_repositories([ours, str(theirs)])
    assert sorted(reading.folders) == ["asr_x", "tts_y"]
    assert reading.folders["tts_y"].where == f"{theirs}/tts_y"
    assert reading.doubled == {
        "tts_x": f"tts_x is in 2 repositories ({ours} and {theirs}): rename or remove all but one, "
        "Triton serves none"
    }
    assert reading.unread == {}


async def test_a_repository_that_cannot_be_read_leaves_the_others(tmp_path: Path) -> None:
    write(tmp_path / "ours", "asr_x", asr())
    (tmp_path / "file").write_text("")
    nowhere, file = tmp_path / "nowhere", tmp_path / "file"
    reading = await read_repositories([nowhere, tmp_path / "ours", file])
    assert list(reading.folders) == ["asr_x"]
    assert "does not exist: create it" in reading.unread[str(nowhere)]
    assert "cannot be read: Not a directory" in reading.unread[str(file)]


async def test_a_model_folder_may_be_odd(tmp_path: Path) -> None:
    folder = write(tmp_path, "m", 'backend: "python"', {"1/model.py": "x" * (2 << 20)})
    (folder / "2").symlink_to(folder / "gone")
    (folder / "3").write_text("a file, no version")
    reading = await read_repositories([tmp_path])
    found = reading.folders["m"]
    assert found.versions() == [1]
    assert list(found.texts) == ["config.pbtxt"], "texts beyond a MiB are not looked into"


def test_places_of_object_stores() -> None:
    assert parse("s3://bucket/a/b/") == Place("s3", "bucket", "a/b")
    assert parse("s3://bucket") == Place("s3", "bucket", "")
    assert parse("s3://127.0.0.1:9000/bucket/a") == Place("s3", "bucket", "a", "http://127.0.0.1:9000")
    assert parse("s3://https://minio:443/bucket/a/b") == Place("s3", "bucket", "a/b", "https://minio:443")
    assert parse("gs://bucket/a") == Place("gs", "bucket", "a")
    assert parse("as://account/container/a/b") == Place("as", "container", "a/b", account="account")
    for url in ("s3://", "gs:///a", "as://account"):
        with pytest.raises(TritonError, match="names no bucket: write"):
            parse(url)


def test_urls_go_to_triton_as_they_are_and_paths_whole(tmp_path: Path) -> None:
    assert [is_url(one) for one in ("s3://a/b", "gs://a", "AS://a/b", "models", "/s3/a", "http://a")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    assert as_argument("s3://h:1/b/c") == "s3://h:1/b/c"
    assert as_argument("models") == str(Path.cwd() / "models")


@pytest.mark.parametrize(
    "said", ['["models", "s3://h:1/b/c"]', "models, s3://h:1/b/c", " models,s3://h:1/b/c,"]
)
def test_the_environment_lists_them_as_json_or_with_commas(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLEY_TRITON__REPOSITORIES", said)
    assert Settings().triton.repositories == ("models", "s3://h:1/b/c")


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    for key, value in CREDENTIALS.items():
        monkeypatch.setenv(key, value)


async def test_a_repository_in_an_object_store_is_read_like_a_folder(
    tmp_path: Path, credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = write(tmp_path, "tts_x", tts(), {"1/model.py": "class TritonPythonModel: ...", "1/a/b/c.bin": "x"})
    bad = write(tmp_path, "asr_x", asr(), {"1/model.py": "def f(:"})
    with object_store(good, bad) as url:
        reading = await read_repositories([url])
        assert reading.unread == {}
        assert list(reading.folders) == ["asr_x", "tts_x"]
        folder = reading.folders["tts_x"]
        assert folder.entries == {"config.pbtxt", "1/", "1/model.py", "1/a/"}
        assert folder.versions() == [1]
        assert validate(folder) == []
        [broken] = validate(reading.folders["asr_x"])
        assert str(broken) == f"{url}/asr_x/1/model.py:1: Python cannot read it: invalid syntax"

        nothing = url.replace("/models-", "/nosuch-")
        reading = await read_repositories([nothing])
        assert reading.unread == {nothing: f"model repository {nothing} cannot be read: 404 Not Found"}

        # Triton's own file of credentials comes before the environment.
        for key in CREDENTIALS:
            monkeypatch.delenv(key)
        file = tmp_path / "credentials.json"
        file.write_text(json.dumps({"s3": {"": {"key_id": "a-test-key", "secret_key": "a-test-secret"}}}))
        monkeypatch.setenv("TRITON_CLOUD_CREDENTIAL_PATH", str(file))
        assert len((await read_repositories([url])).folders) == 2
        file.write_text("no json")
        [why] = (await read_repositories([url])).unread.values()
        assert "cannot be read as Triton's credential JSON" in why
        assert "a-test-secret" not in why + os.environ.get("TRITON_CLOUD_CREDENTIAL_PATH", "")
