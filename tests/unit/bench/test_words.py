from __future__ import annotations

import pytest

from bench.words import errors, normalised


def test_normalisation_is_what_is_stated() -> None:
    assert (
        normalised("Mr. Dashwood's  'cold' heart—it’s, well, 3.")
        == "mister dashwood's cold heart it's well 3"
    )


@pytest.mark.parametrize(
    ("heard", "count"),
    [("ten of clubs", 0), ("Ten of Clubs.", 0), ("ten clubs", 1), ("a ten of close", 2), ("", 3)],
)
def test_errors_are_substitutions_deletions_and_insertions(heard: str, count: int) -> None:
    pytest.importorskip("jiwer")
    assert errors("ten of clubs", heard) == count
