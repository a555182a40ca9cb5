"""Exported folders that are not whole: the proof fails, and says of what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli.models.proof import prove_exported
from gateway.triton.models.exported import code_of
from gateway.triton.models.graphs import GraphError


@pytest.mark.parametrize(
    ("front", "said"),
    [
        ('{"kind": "buf', "front.json cannot be read"),
        ("\udcff", "front.json cannot be read"),
        ("[]", "describes no model"),
        ('{"kind": "buffered"}', "names no graphs"),
        ('{"kind": "buffered", "graphs": {"encoder": 1}}', "names no graphs"),
        (None, "front.json cannot be read"),
    ],
)
async def test_a_front_that_cannot_be_is_a_sentence(front: str | None, said: str, tmp_path: Path) -> None:
    version = tmp_path / "asr_broken" / "1"
    version.mkdir(parents=True)
    (version.parent / "provenance.json").write_text("{}", "utf-8")
    if front is not None:
        (version / "front.json").write_text(front, "utf-8", errors="surrogateescape")
    (proved,) = await prove_exported([tmp_path], (), on_triton=False)
    assert not proved.ok
    assert said in proved.note
    assert str(version) in proved.note


async def test_without_its_provenance_it_is_proved_all_the_same(tmp_path: Path) -> None:
    version = tmp_path / "asr_alone" / "1"
    version.mkdir(parents=True)
    front = {"kind": "buffered", "graphs": {"encoder": "graph_asr_alone_encoder"}}
    (version / "front.json").write_text(json.dumps(front), "utf-8")
    (proved,) = await prove_exported([tmp_path], (), on_triton=False)
    assert not proved.ok
    assert "graph_asr_alone_encoder" in proved.note


@pytest.mark.parametrize("kind", ["nothing_like_it", "../tts", "a.b", "", None, 3])
def test_a_kind_that_is_not_known(kind: object) -> None:
    with pytest.raises(GraphError, match="none that this Parley runs"):
        code_of("asr", kind)


def test_a_kind_that_is_known() -> None:
    assert code_of("asr", "buffered").__name__.endswith(".asr.buffered")
