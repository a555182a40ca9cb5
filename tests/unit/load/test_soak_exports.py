"""The soak of exports: every family is in it, and one that differs is not fine."""

from __future__ import annotations

import json
import math

import pytest

from gateway.triton.exported.families import ASR_FAMILIES, CODEC_FAMILIES, TTS_FAMILIES
from gateway.triton.proof.fronts import SESSION
from gateway.triton.proof.graphs import ORT, REPLAYED
from gateway.triton.proof.proved import Proved, failed
from gateway.triton.proof.served import TRITON
from load.run.soaking import markdown
from load.soak.exports.kinds import KINDS, SHORT, Kind
from load.soak.exports.verdict import COLUMNS, Made, Part, outcome

MACHINE = {"cpu": "c", "cores": 2, "system": "s", "date": "d", "command": "scripts/soak exports"}


def proofs() -> list[Proved]:
    return [
        Proved("graph_x_step", ORT, 40, 2e-5, 1e-4),
        Proved("graph_x_step", REPLAYED, 40, 3e-5, 1e-4),
        Proved("graph_x_step", TRITON, 40, 2e-5, 1e-4),
        Proved("asr_x", SESSION, 12, 0, 0, "wrong"),
    ]


def test_every_family_and_each_configuration_once() -> None:
    assert {kind.family for kind in KINDS} == {*ASR_FAMILIES, *TTS_FAMILIES, *CODEC_FAMILIES}
    assert len(set(KINDS)) == len(KINDS)
    assert len(SHORT) == 2


def test_what_is_equal_is_fine() -> None:
    parts = [
        Part(Kind("zipformer"), [Made(0, 20.0, 11.0, graphs=1, proofs=proofs()), Made(1, 30.0, 12.0, "", 1, proofs())]),
        Part(Kind("vits", ("speakers=3",)), [Made(0, 20.0, 11.0, "", 1, [Proved("tts_x", SESSION, 2, -93.2, -60.0, "dB")])]),
    ]  # fmt: skip
    found = outcome(parts, seconds=99)
    assert found.ok
    assert all(len(row) == len(COLUMNS) for row in found.rows)
    row = dict(zip(COLUMNS, found.rows[0], strict=True))
    assert row["seeds"] == "2 of 2"
    assert row["outputs compared"] == "240"
    assert (row["worst difference"], row["of what is allowed"]) == ("3.0e-05", "30 %")
    assert (row["states replayed"], row["a session on Triton"]) == ("equal", "0 wrong of 24")
    assert (row["export, s"], row["CPU, s"]) == ("25", "12")
    voice = dict(zip(COLUMNS, found.rows[1], strict=True))
    assert (voice["states replayed"], voice["a session on Triton"]) == ("-", "-93 dB at worst, of 2")
    assert "each equals torch" in markdown(found, MACHINE)


@pytest.mark.parametrize(
    "made",
    [
        Made(0, 1.0, 1.0, "no such option"),
        Made(0, 1.0, 1.0),
        Made(0, 1.0, 1.0, "", 1, [*proofs(), failed("graph_x_y", TRITON, "it does not load")]),
        Made(0, 1.0, 1.0, "", 1, [Proved("graph_x_step", ORT, 40, 2.0, 1e-4, ok=False, note="3 of 40 miss")]),
    ],
    ids=["not exported", "nothing proved", "failed", "differs"],
)
def test_what_differs_is_not_fine(made: Made) -> None:
    found = outcome([Part(Kind("zipformer"), [Made(1, 1.0, 1.0, "", 1, proofs()), made])], seconds=1)
    assert not found.ok
    assert "NOT FINE, 1 of them" in found.findings[0]
    assert dict(zip(COLUMNS, found.rows[0], strict=True))["seeds"] == "1 of 2"
    assert json.loads(json.dumps(found.data, allow_nan=False))
    assert all(why in markdown(found, MACHINE) for why in made.whys)


def test_an_identical_output_is_no_share_of_a_tolerance() -> None:
    same = Proved("graph_x_step", ORT, 4, 0.0, 0.0)
    other = Proved("graph_x_step", ORT, 4, 1.0, 0.0, ok=False)
    rows = [
        outcome([Part(Kind("x"), [Made(0, 1, 1, "", 1, [one])])], seconds=1).rows[0] for one in (same, other)
    ]
    assert [row[COLUMNS.index("of what is allowed")] for row in rows] == ["0 %", f"{math.inf:.0f} %"]
