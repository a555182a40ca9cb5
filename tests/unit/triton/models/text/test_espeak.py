"""The optional phonemiser in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from gateway.triton.models.text import load_text
from gateway.triton.models.text.espeak import Espeak, EspeakFailed
from tests.unit.triton.models.text.folder import TextFolderOf

HAS_ESPEAK = bool(__import__("importlib.util").util.find_spec("espeakng_loader"))
needs_espeak = pytest.mark.skipif(not HAS_ESPEAK, reason="the espeak extra is not installed")


def _folder(path: Path, voice: str = "en-us") -> TextFolderOf:
    symbols = {symbol: [number] for number, symbol in enumerate("_^$ ,.?həlˈoʊwɜːdaɪæmbkʒçøtʃʁeɛ")}
    settings = {
        "kind": "phonemes", "phonemiser": "espeak", "espeak_voice": voice, "symbols": "symbols", "space": " ",
        "begin": [1, 0], "after": [0], "end": [2], "marks": {"!": "."},
    }  # fmt: skip
    return TextFolderOf(path, settings, symbols=json.dumps(symbols).encode())


@needs_espeak
def test_a_piper_voice_hears_espeak(tmp_path: Path) -> None:
    load = load_text(_folder(tmp_path))
    symbols = "_^$ ,.?həlˈoʊwɜːdaɪæmbkʒçøtʃʁeɛ"
    said = "".join(symbols[i] for i in load("Hello, world!\n"))
    assert said == "^_" + "_".join("həlˈoʊ, wˈɜːld.") + "_$"
    assert "espeakng_loader" not in sys.modules


@needs_espeak
def test_what_stands_behind_a_nul_is_said(tmp_path: Path) -> None:
    load = load_text(_folder(tmp_path))
    assert load("Hello\x00world.").tolist() == load("Hello world.").tolist()


@needs_espeak
def test_a_dead_worker_is_replaced_and_a_stuck_one_too() -> None:
    espeak = Espeak("fr", answer_s=0.3)
    try:
        first = espeak.pid
        os.kill(first, signal.SIGKILL)
        assert espeak(["bonjour"]) == ["bɔ̃ʒˈuʁ"]
        second = espeak.pid
        assert second != first
        os.kill(second, signal.SIGSTOP)
        assert espeak(["bonjour", "bonjour"]) == ["bɔ̃ʒˈuʁ"] * 2
        assert not Path(f"/proc/{second}").exists()
    finally:
        espeak.stop()


@needs_espeak
def test_an_unknown_voice_is_a_sentence() -> None:
    with pytest.raises(EspeakFailed, match="espeak-ng has no voice 'nowhere'"):
        Espeak("nowhere")


def test_without_the_extra_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "espeakng_loader.py").write_text("raise ImportError('left out')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EspeakFailed, match=r"pip install 'parley\[espeak\]'.*the permissive lexicon"):
        load_text(_folder(tmp_path))
