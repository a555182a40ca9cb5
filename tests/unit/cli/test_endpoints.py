from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from gateway.cli import endpoints
from gateway.cli.common import Fault

FOUND = {"grpc": "127.0.0.1:50050", "llm": "http://127.0.0.1:8090/v1"}


def test_the_default_lies_in_the_runtime_folder_else_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert endpoints.default_path() == tmp_path / "parley" / "endpoints.json"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert endpoints.default_path() == tmp_path / ".cache" / "parley" / "endpoints.json"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "endpoints.json"
    endpoints.write(path, FOUND)
    assert json.loads(path.read_text()) == FOUND
    assert endpoints.read(path) == FOUND
    assert [p.name for p in path.parent.iterdir()] == ["endpoints.json"], "no half file is left"


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.json"
    many = {f"key{n}": "x" * 500 for n in range(200)}
    endpoints.write(path, many)
    done = threading.Event()
    seen: list[int] = []

    def read_on() -> None:
        while not done.is_set():
            seen.append(len(json.loads(path.read_text())))

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        for _ in range(100):
            endpoints.write(path, many)
    finally:
        done.set()
        reader.join()
    assert set(seen) == {200}


def test_no_file_is_no_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert endpoints.read(tmp_path / "none.json") is None
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert endpoints.find("grpc", default="127.0.0.1:1") == "127.0.0.1:1"
    endpoints.write(endpoints.default_path(), FOUND)
    assert endpoints.find("grpc", default="127.0.0.1:1") == "127.0.0.1:50050"


@pytest.mark.parametrize("text", ["{", "[]", '{"grpc": 1}'])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, text: str) -> None:
    path = tmp_path / "endpoints.json"
    path.write_text(text)
    with pytest.raises(Fault, match="start `parley up` again"):
        endpoints.read(path)


def test_a_file_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Fault, match="cannot write the endpoints file"):
        endpoints.write(tmp_path / "file" / "endpoints.json", FOUND)


def test_only_our_own_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.json"
    endpoints.write(path, {"grpc": "of another stack"})
    endpoints.remove(path, FOUND)
    assert path.exists()
    endpoints.remove(path, {"grpc": "of another stack"})
    assert not path.exists()
    endpoints.remove(path, FOUND)
