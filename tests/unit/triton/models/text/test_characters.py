"""Voices that read letters."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from gateway.triton.models.text.ids import _unknown
from gateway.triton.models.voices import Refused
from tests.unit.triton.models.text.folder import speaker

MMS = {"kind": "characters", "lower": True, "begin": [0], "after": [0]}
SPEECHT5 = {"kind": "characters", "lower": True, "space": "▁", "leading_space": True, "end": [2]}
LETTERS = "abcdefghijklmnopqrstuvwxyz'"


def test_a_blank_stands_around_every_letter(tmp_path: Path) -> None:
    load, _ = speaker(tmp_path, LETTERS + " ", MMS)
    assert load("Ab c").tolist() == [0, 100, 0, 101, 0, 127, 0, 102, 0]
    assert load("Ab c").dtype == np.int64


def test_numbers_are_words_and_what_has_no_letter_is_left_out(tmp_path: Path) -> None:
    _, said = speaker(tmp_path, LETTERS + " ", {"kind": "characters"})
    assert said(" Dr.  X:\n 2 😀 ") == "doctor x two"


def test_the_sentencepiece_way_has_a_space_in_front_and_an_end(tmp_path: Path) -> None:
    _, said = speaker(tmp_path, LETTERS + "▁.H", SPEECHT5)
    assert said("Hi  Ho.") == "▁Hi▁Ho.<2>"


def test_a_text_of_which_nothing_can_be_said_is_refused_in_a_sentence(tmp_path: Path) -> None:
    load, _ = speaker(tmp_path, LETTERS + " .", MMS)
    with pytest.raises(Refused, match="TEXT is empty; send words"):
        load(" \n")
    with pytest.raises(Refused, match=r"nothing of the text '你好 …' can be spoken"):
        load("你好 …")
    with pytest.raises(Refused, match="nothing of the text"):
        load("...")


def test_an_unknown_symbol_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load, _ = speaker(tmp_path, LETTERS + " ", MMS)
    _unknown.pop("Ж".lower(), None)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            load("a ЖЖ")
    assert [record.getMessage() for record in caplog.records] == [
        "'ж' (U+0436) has no sound in this voice and is left out"
    ]
    assert _unknown["ж"] == 6


def test_a_letter_that_the_voice_lacks_is_said_without_its_accents(tmp_path: Path) -> None:
    _, said = speaker(tmp_path, LETTERS + " é", {"kind": "characters"})
    assert (
        said("Café à la crème, naïve Ünderdog; cafe\u0301 a\u0323") == "café a la creme naive underdog café a"
    )
