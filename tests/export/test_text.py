"""Texts as exported voices read them, beside misaki's dictionaries and transformers' own tokenizers."""

from __future__ import annotations

import gzip
import importlib.resources
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from transformers import SpeechT5Tokenizer, VitsTokenizer

from gateway.triton.models.text import load_text
from gateway.triton.models.text.letters import LettersToSounds
from gateway.triton.models.text.lexicon import Lexicon, Sounds
from gateway.triton.models.text.words import Words
from parley_export.alphabets import ALPHABETS, from_arpabet, written
from parley_export.text_data import (
    Files,
    espeak_text,
    espnet_text,
    kokoro_text,
    lexicon,
    mms_text,
    piper_text,
    pronunciations,
    speecht5_text,
)

IPA = ';:,.!?—…"()“” AIOQSTWYᵊabcdefhijklmnopqrstuvwxyzɑɐɒæɔðəɚɛɜɡɪŋɹɾʃʊʌʒʔʤʧθᵻˈˌː'
KOKORO = {symbol: 1 + index for index, symbol in enumerate(IPA)}
PIPER = {symbol: [index] for index, symbol in enumerate("_^$" + IPA)}
VOWELS = ["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"]
PHONES = [
    "B",
    "CH",
    "D",
    "DH",
    "F",
    "G",
    "HH",
    "JH",
    "K",
    "L",
    "M",
    "N",
    "NG",
    "P",
    "R",
    "S",
    "SH",
    "T",
    "TH",
    "V",
    "W",
    "Y",
    "Z",
    "ZH",
    ",",
    ".",
    "?",
    "!",
    "...",
]
ESPNET = {
    phone: index
    for index, phone in enumerate(
        ["<blank>", "<unk>", *(v + s for v in VOWELS for s in "012"), *PHONES, "<sos/eos>"]
    )
}
TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "It's a TEST, isn't it?",
    "well - that was 'fine'; really: yes!",
    "Über café",
    "一 hello 二",
]


class _Folder:
    def __init__(self, path: Path, made: tuple[dict[str, Any], Files]) -> None:
        self.front = {"text": made[0]}
        self._path = path
        for name, content in made[1].items():
            self.path(name).write_bytes(content)

    def path(self, name: str) -> Path:
        return self._path / name

    def read_json(self, name: str) -> Any:
        return json.loads(self.path(name).read_bytes())


def _said(path: Path, made: tuple[dict[str, Any], Files]) -> Callable[[str], list[str]]:
    folder = _Folder(path, made)
    load = load_text(folder)
    names = {}
    for symbol, ids in folder.read_json("symbols.json").items():
        names[ids if isinstance(ids, int) else ids[0]] = symbol
    around = {*made[0].get("begin", []), *made[0].get("after", []), *made[0].get("end", [])}
    return lambda text: [names[int(i)] for i in load(text) if int(i) not in around]


def test_vits_letters_are_those_of_transformers(tmp_path: Path) -> None:
    vocabulary = {s: i for i, s in enumerate("|_abcdefghijklmnopqrstuvwxyz' -éÜ")} | {"<unk>": 40, "<pad>": 0}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    for add_blank in (True, False):
        theirs = VitsTokenizer(
            str(tmp_path / "vocab.json"),
            add_blank=add_blank,
            normalize=True,
            phonemize=False,
            pad_token="<pad>",
        )
        ours = load_text(_Folder(tmp_path, mms_text(vocabulary, add_blank=add_blank, language="xx")))
        for text in TEXTS:
            assert ours(text).tolist() == theirs(text)["input_ids"], text


def test_speecht5_letters_are_those_of_transformers(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("\n".join(TEXTS[:3]).lower() + "\n")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "spm"), model_type="char", vocab_size=40,
        bos_id=0, pad_id=1, eos_id=2, unk_id=3, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    theirs = SpeechT5Tokenizer(str(tmp_path / "spm.model"))
    spm = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    pieces = [spm.id_to_piece(index) for index in range(len(spm))]
    ours = load_text(_Folder(tmp_path, speecht5_text(pieces, spm.eos_id(), language="xx")))
    for text in TEXTS[:3]:
        assert ours(text).tolist() == theirs(text.lower())["input_ids"], text
    assert spm.unk_id() not in ours(TEXTS[4])


def test_every_word_sounds_as_misaki_has_it(tmp_path: Path) -> None:
    """Of both dictionaries, the original files read here once more."""
    for british, prefix in ((False, "us"), (True, "gb")):
        gold = json.loads(
            (importlib.resources.files("misaki") / f"data/{prefix}_gold.json").read_text("utf-8")
        )
        (tmp_path / "lexicon").write_bytes(lexicon("kokoro", british))
        ours = Lexicon(tmp_path / "lexicon", spaced=False)
        checked = 0
        for word in list(gold)[::29]:
            theirs = gold[word] if isinstance(gold[word], str) else gold[word]["DEFAULT"]
            found = ours.find(word)
            if word not in ("the", "a", "an", "to"):
                assert found is not None
                assert "".join(found.symbols) == theirs.replace("ɾ", "T").replace("ʔ", "t"), word
                checked += 1
        assert checked > 2900


def test_every_pronunciation_can_be_written_in_every_alphabet() -> None:
    arpabet = {phone for phone in ESPNET if phone[0].isalpha()}
    for british in (False, True):
        for alphabet in ALPHABETS:
            symbols: set[str] = set()
            for said in pronunciations(british).values():
                as_written = written(said, alphabet, british)
                assert as_written
                symbols.update(as_written.split() if alphabet == "arpabet" else as_written)
            assert symbols <= (arpabet if alphabet == "arpabet" else set(IPA)), symbols


@pytest.mark.parametrize(
    ("word", "arpabet", "espeak"),
    [
        ("hello", "HH AH0 L OW1", "həlˈoʊ"),
        ("water", "W AO1 T ER0", "wˈɔːɾɚ"),
        ("ladder", "L AE1 D ER0", "lˈædɚ"),
        ("bird", "B ER1 D", "bˈɜːd"),
        ("judge", "JH AH1 JH", "dʒˈʌdʒ"),
        ("machine", "M AH0 SH IY1 N", "məʃˈiːn"),
        ("seventeen", "S EH2 V AH0 N T IY1 N", "sˌɛvəntˈiːn"),
        ("read", "R IY1 D", "ɹˈiːd"),
    ],
)
def test_words_in_the_other_alphabets(word: str, arpabet: str, espeak: str) -> None:
    """ARPAbet as CMUdict has these words; IPA as espeak-ng writes them."""
    said = pronunciations()[word]
    assert written(said, "arpabet") == arpabet
    assert written(said, "espeak") == espeak


def test_every_arpabet_phone_comes_back() -> None:
    for phone in ESPNET:
        if phone[0].isalpha():
            assert written(from_arpabet(phone), "arpabet") == phone


def test_a_sentence_in_each_alphabet(tmp_path: Path) -> None:
    text = "Dr. Lee's dog: the apple's $5.20 — a kubernetes pod!"
    kokoro = _said(tmp_path, kokoro_text(KOKORO))
    assert "".join(kokoro(text)) == (
        "dˈɑktəɹ lˈiz dˈɔɡ: ði ˈæpᵊlz fˈIv dˈɑləɹz ænd twˈɛnti sˈɛnts — ɐ kəbˈɜɹnəts pˈɑd!"
    )
    british = _said(tmp_path, kokoro_text(KOKORO, language="en-GB"))
    assert "".join(british("the dog's apple 3/2/2024")).startswith("ðə dˈɒɡz ˈapᵊl ðə θˈɜːd ɒv fˈɛb")
    espnet = _said(tmp_path, espnet_text(ESPNET, ESPNET["<sos/eos>"]))
    assert " ".join(espnet('The dog, (or) "cats"…')) == "DH AH0 D AO1 G , AO0 R K AE1 T S ..."
    piper = _said(tmp_path, piper_text(PIPER))
    assert "".join(piper("The water — a bird.")) == "ðə wˈɔːɾɚ, ɐ bˈɜːd."
    assert load_text(_Folder(tmp_path, piper_text(PIPER)))("dog").tolist()[:2] == [1, 0]


def test_the_net_says_what_g2p_en_says(tmp_path: Path) -> None:
    """Its own code's answers, in single precision."""
    from parley_export.text_data import letters

    (tmp_path / "net").write_bytes(letters("arpabet"))
    net = LettersToSounds(tmp_path / "net")
    assert " ".join(net("zyxtopia")) == "Z IH0 K S T OW1 P IY0 AH0"
    assert " ".join(net("transmogrify")) == "T R AE0 N Z M AA1 G R AH0 F AY2"
    assert " ".join(net("flibbertigibbet")) == "F L IH1 B ER0 T IH0 JH AH0 T"
    assert " ".join(net("anthropic")) == "AE2 N TH R AH0 P IH1 K"


HELD_OUT = [
    "troglodytism",
    "cyberpunk",
    "reinter",
    "principalship",
    "medievalism",
    "paleoenvironmental",
    "diacritically",
    "molluskoid",
    "amitotic",
    "orthotropic",
    "biogenetic",
    "trowelling",
    "smarm",
    "perjurious",
    "dreadfulness",
    "myelomas",
    "ceroplastic",
    "redly",
    "molality",
    "thunderously",
    "matelote",
    "abutilon",
    "gallinule",
    "civilizable",
    "mesclun",
    "psychotronic",
    "pipsqueak",
    "standardisation",
    "luetic",
    "prebendal",
    "tumultuousness",
    "scabbiness",
    "clicktivist",
    "weenie",
    "shanghaied",
    "caramelly",
    "travertine",
    "hydrology",
    "eeriness",
    "petrographic",
    "stoniness",
    "pipelining",
    "matinal",
    "inconsiderately",
    "arteriovenous",
    "singlestick",
    "secondee",
    "maidenhood",
    "multiplay",
    "briquette",
]
"""Of misaki's gold, and not in CMUdict, with which the net was trained."""


def test_words_outside_the_lexicon_are_mostly_right(tmp_path: Path) -> None:
    settings, files = espnet_text(ESPNET, 0)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    whole = Lexicon(tmp_path / "lexicon.txt.gz", spaced=True)

    class Without(Lexicon):
        def __init__(self) -> None:
            pass

        def find(self, word: str) -> Sounds | None:
            return None if word.lower() in HELD_OUT else whole.find(word)

    words = Words(Without(), settings, LettersToSounds(tmp_path / "letters.npz"))
    wrong = total = 0
    for word in HELD_OUT:
        right = written(pronunciations()[word], "arpabet").split()
        said = [symbol for sounds in words.find(word) for symbol in sounds.symbols]
        wrong += _distance(right, said)
        total += len(right)
    assert 0.05 < wrong / total < 0.2


def test_the_lexicon_is_the_same_bytes_each_time() -> None:
    assert gzip.decompress(lexicon("kokoro")).count(b"\n") > 150_000
    assert lexicon.__wrapped__("kokoro", False) == lexicon("kokoro")


def test_a_language_without_a_dictionary_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"no dictionary of de-DE: choose the phonemiser espeak"):
        piper_text(PIPER, language="de-DE")
    settings, files = espeak_text(PIPER, "de")
    assert settings["phonemiser"] == "espeak"
    assert set(files) == {"symbols.json"}


def _distance(right: Sequence[str], said: Sequence[str]) -> int:
    row = np.arange(len(said) + 1)
    for index, symbol in enumerate(right, 1):
        other = row + 1
        other[0] = index
        other[1:] = np.minimum(other[1:], row[:-1] + [symbol != one for one in said])
        for at in range(1, len(other)):
            other[at] = min(other[at], other[at - 1] + 1)
        row = other
    return int(row[-1])
