"""What every voice does alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import GraphError
from gateway.triton.models.tts.common import (
    Samples,
    can_be_said,
    hand_on,
    named,
    opened,
    read_voices,
    seed_or_new,
    speaker_of,
)
from gateway.triton.models.voices import Voice


def test_nothing_more_is_made_once_nobody_listens() -> None:
    made: list[int] = []
    got: list[list[int]] = []

    def stream() -> Iterator[Samples]:
        for number in range(5):
            made.append(number)
            yield np.full(2, number / 4, np.float32)

    def heard(samples: NDArray[Any]) -> bool:
        got.append(samples.tolist())
        return len(got) < 2

    assert not hand_on(stream(), heard)
    assert made == [0, 1]
    assert got == [[0, 0], [8192, 8192]]
    assert hand_on(stream(), lambda samples: True)


def test_signs_alone_are_nothing_to_say() -> None:
    assert not can_be_said(" … !?")
    assert can_be_said("… 7")


def test_a_seed_is_kept_or_drawn_anew() -> None:
    assert seed_or_new(0) == 0
    assert seed_or_new(None) != seed_or_new(None)


def test_a_voice_may_have_another_name_inside() -> None:
    told: list[dict[str, Any]] = [
        {"name": "ada", "language": "en-GB", "gain": 2, "speaker": 3},
        {"name": "bob", "language": "en-US", "gain": 1.5},
    ]
    assert read_voices(told) == (Voice("ada", "en-GB", "3", 2.0), Voice("bob", "en-US", "bob", 1.5))
    ada, bob = read_voices(told)
    assert speaker_of(ada) == 3
    assert named((ada, bob), "") is ada
    assert named((ada, bob), "bob") is bob


def test_a_front_that_lacks_something_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "front.json").write_text("{}")
    with pytest.raises(GraphError, match=r"front\.json: KeyError 'rate'$"):
        opened(lambda folder: folder.front["rate"], Folder(tmp_path))
