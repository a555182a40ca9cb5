from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli import main


@pytest.mark.parametrize("name", ["nowhere", "a-file"])
def test_a_repository_that_is_none_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "a-file").touch()
    assert main(["models", "verify", "--repository", str(tmp_path / name)]) == 1
    caught = capsys.readouterr()
    (line,) = (caught.out + caught.err).splitlines()
    assert str(tmp_path / name) in line
