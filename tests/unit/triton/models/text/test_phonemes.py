"""Voices that read sounds: lexicon, endings, spelling, letters to sounds, marks."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.triton.models.text import load_text
from gateway.triton.models.voices import Refused
from tests.unit.triton.models.text.folder import TextFolderOf, lexicon, speaker

SYMBOLS = " .,?—ðəiɐAdɔɡzsɪktɛʧbˈmjnuhOwlIˌ"
SETTINGS: dict[str, Any] = {
    "kind": "phonemes", "space": " ", "article": "a", "vowel_letters": "aeiouy", "vowels": list("ˈəiɐAɔɪɛuO"),
    "marks": {".": ".", ",": ",", "?": "?", "—": "—", "–": "—", "!": ".", "(": "", ")": ""},
    "endings": [
        {"spelling": "'s", "stems": [["", ""]], "sounds": [[["s", "z", "ʧ"], ["ɪ", "z"]], [["t", "k"], ["s"]], [[], ["z"]]]},
        {"spelling": "s", "stems": [["", ""]], "sounds": [[["s", "z", "ʧ"], []], [["t", "k"], ["s"]], [[], ["z"]]]},
        {"spelling": "ing", "stems": [["", "e"], ["", ""]], "sounds": [[[], ["ɪ", "n"]]]},
        {"spelling": "ly", "stems": [["i", "y"]], "sounds": [[[], ["l", "i"]]]},
    ],
    "beginnings": [{"spelling": "un", "sounds": ["A", "n"]}], "weaker": {"ˈ": "ˌ"},
}  # fmt: skip
WORDS = (
    "the\tðə\tði", "a\tɐ", "A\tˈA", "dog\tdˈɔɡ", "cat\tkˈAt", "oak\tˈOk", "B\tbˈi", "M\tˈɛm", "I\tˈI",
    "two\ttˈu", "bite\tbˈIt", "Dan\tdˈAn", "bit\tbˈɪt", "catty\tkˈAti",
)  # fmt: skip


def _said(tmp_path: Path, text: str) -> str:
    return speaker(tmp_path, SYMBOLS, SETTINGS, *WORDS)[1](text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("The dog, the oak – a cat.", "ðə dˈɔɡ, ði ˈOk — ɐ kˈAt."),
        ("A dog. Bit A. A B M", "ɐ dˈɔɡ. bˈɪt ˈA. ˈA bˈi ˈɛm"),
        ("2 dogs!", "tˈu dˈɔɡz."),
        ("dan's DOG's cat's CATS", "dˈAnz dˈɔɡz kˈAts kˈAts"),
        ("biting (the) (dog), (cat)", "bˈItɪn ðə dˈɔɡ, kˈAt"),
        ("catdogs oakcat", "kˈAtdˌɔɡz ˈOkkˌAt"),
        ("unbiting", "AnbˈItɪn"),
        ("cattily", "kˈAtili"),
        ("IBM", "ˈI bˈi ˈɛm"),
        ("dogCat", "dˈɔɡ kˈAt"),
        ("dog-cat", "dˈɔɡ kˈAt"),
        ("dóg ’dog’", "dˈɔɡ dˈɔɡ"),
        ("Xr 😀 dog", "dˈɔɡ"),  # no vowel, and no names of its letters
    ],
)
def test_words_and_marks(tmp_path: Path, text: str, said: str) -> None:
    assert _said(tmp_path, text) == said


def test_nothing_to_say_is_refused(tmp_path: Path) -> None:
    for text in ("", "?!", "你好"):
        with pytest.raises(Refused):
            _said(tmp_path, text)


def test_ten_thousand_characters_take_a_moment(tmp_path: Path) -> None:
    load, _ = speaker(tmp_path, SYMBOLS, SETTINGS, *WORDS)
    for part in ("the dog, 12 cats. ", "d", "dD", "A ", "'", "d'", "-", "é"):
        text = (part * 10_000)[:10_000]
        began = time.process_time()
        try:
            load(text)
        except Refused:
            assert part in "-d'dDé"
        assert time.process_time() - began < 1.0, part


def _net(say: int) -> bytes:
    """A net that says the symbol number `say` for each letter `b` it has read, and then ends."""
    rng = np.random.default_rng(0)
    width, letters, sounds = 4, ["<pad>", "<unk>", "</s>", "a", "b"], ["", "", "", "", "k A", "t"]
    arrays: dict[str, Any] = {}
    for side, count in (("enc", len(letters)), ("dec", len(sounds))):
        arrays[f"{side}_emb"] = rng.normal(size=(count, 3)).astype(np.float16)
        arrays[f"{side}_w_ih"] = np.zeros((3 * width, 3), np.float16)
        arrays[f"{side}_w_hh"] = np.zeros((3 * width, width), np.float16)
        arrays[f"{side}_b_ih"] = np.zeros(3 * width, np.float16)
        arrays[f"{side}_b_hh"] = np.zeros(3 * width, np.float16)
    # Zero weights halve the state with every step: the update gate is sigmoid(0).
    arrays["enc_emb"] = np.eye(5, 3, -2).astype(np.float16)
    arrays["enc_w_ih"][2 * width, 2] = 20.0  # b: new state 1
    arrays["fc_w"] = np.zeros((len(sounds), width), np.float16)
    arrays["fc_b"] = np.full(len(sounds), -9.0, np.float16)
    arrays["fc_w"][say, 0], arrays["fc_b"][say], arrays["fc_b"][3] = 100.0, 0.0, 10.0
    packed = io.BytesIO()
    np.savez(packed, letters=np.array(letters), sounds=np.array(sounds), **arrays)
    return packed.getvalue()


def test_a_word_outside_the_lexicon_is_read_by_the_net(tmp_path: Path) -> None:
    """By hand: "ab" leaves the state at 0.25 after its end; the output is above the end's 10 at 0.125 only."""
    folder = TextFolderOf(
        tmp_path,
        {**SETTINGS, "symbols": "symbols", "lexicon": "lexicon", "letters": "net"},
        symbols=json.dumps({"k": 1, "A": 2, "t": 3}).encode(), lexicon=lexicon("a\tA"), net=_net(4),
    )  # fmt: skip
    assert load_text(folder)("ab").tolist() == [1, 2]
    assert load_text(folder)("Ab").tolist() == [1, 2]
    assert load_text(folder)("abbb").tolist() == [1, 2, 1, 2]  # 0.219, 0.109: twice above
    folder.path("net").write_bytes(_net(5))
    assert load_text(folder)("ab").tolist() == [3]


def test_a_broken_lexicon_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no lexicon"):
        speaker(tmp_path, SYMBOLS, SETTINGS, "no sounds")


def test_the_lexicon_finds_every_word_and_no_other(tmp_path: Path) -> None:
    from gateway.triton.models.text.lexicon import Lexicon

    words = [f"w{index:04d}é" for index in range(0, 3000, 3)]
    (tmp_path / "l").write_bytes(lexicon(*(f"{word}\t{word[1:3]}" for word in words)))
    found = Lexicon(tmp_path / "l", spaced=False)
    assert len(found) == 1000
    assert all((sounds := found.find(word)) and sounds.symbols == tuple(word[1:3]) for word in words)
    assert not any(found.find(word) for word in ("", "w", "w0001é", "w9999é", "zzz", "a", words[5][:-1]))


def test_piper_puts_a_pad_after_each_and_marks_at_both_ends(tmp_path: Path) -> None:
    settings = {**SETTINGS, "begin": [1, 0], "after": [0], "end": [2]}
    load, _ = speaker(tmp_path, SYMBOLS, settings, *WORDS)
    inner = load("oak").tolist()
    assert inner[:2] == [1, 0]
    assert inner[-1] == 2
    assert inner[3:-1:2] == [0, 0, 0]
