"""The text side of an exported voice: settings for `gateway.triton.models.text.load_text`, and its files.

Pronunciations come from misaki's dictionaries (Apache-2.0, gold before silver); sounds of words outside
them from the net of g2p-en (Apache-2.0; data/SOURCES.md). A language is a rules file in languages/ and,
for voices that read sounds, a dictionary here; a voice that reads letters needs neither.
"""

from __future__ import annotations

import gzip
import importlib.resources
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from parley_export.alphabets import ARPABET_VOWELS, VOWELS, as_british, from_arpabet, is_spaced, written

Symbols = Mapping[str, int | Sequence[int]]
Files = dict[str, bytes]

HERE = Path(__file__).parent
_WEAK = {
    "the": ("ðə", "ði"),
    "a": ("ɐ", "ɐ"),
    "an": ("ɐn", "ɐn"),
    "to": ("tə", "tʊ"),
}
"""Words as they sound among others: before consonants, before vowels (as misaki says them)."""
_HISSING, _VOICELESS = "szʃʒʤʧ", "ptkfθ"
_SAME, _LOST_E, _Y = ("", ""), ("", "e"), ("i", "y")
_ENDINGS: list[tuple[str, list[tuple[str, str]], list[tuple[str, str]]]] = [
    ("'s", [_SAME], [(_HISSING, "ᵻz"), (_VOICELESS, "s"), ("", "z")]),
    ("s", [_SAME, ("", "'")], [(_HISSING, "ᵻz"), (_VOICELESS, "s"), ("", "z")]),
    ("es", [_SAME], [(_HISSING, "ᵻz")]),
    ("ed", [_LOST_E, _SAME], [("td", "ᵻd"), ("pkfθʃsʧ", "t"), ("", "d")]),
    ("ing", [_LOST_E, _SAME], [("", "ɪŋ")]),
    ("'ll", [_SAME], [("", "ᵊl")]),
    ("'d", [_SAME], [("td", "ᵻd"), ("", "d")]),
    ("'ve", [_SAME], [("", "əv")]),
    ("ness", [_SAME, _Y], [("", "nəs")]),
    ("less", [_SAME, _Y], [("", "ləs")]),
    ("ment", [_SAME], [("", "mənt")]),
    ("able", [_SAME, _LOST_E, _Y], [("", "əbᵊl")]),
    ("ship", [_SAME], [("", "ʃˌɪp")]),
    ("like", [_SAME], [("", "lˌIk")]),
    ("ful", [_SAME, _Y], [("", "fᵊl")]),
    ("ism", [_SAME, _LOST_E], [("", "ˌɪzᵊm")]),
    ("ist", [_SAME, _LOST_E], [("", "ɪst")]),
    ("ish", [_SAME, _LOST_E], [("", "ɪʃ")]),
    ("est", [_SAME, _LOST_E, _Y], [("", "əst")]),
    ("ers", [_SAME, _LOST_E, _Y], [("", "əɹz")]),
    ("er", [_SAME, _LOST_E, _Y], [("", "əɹ")]),
    ("ly", [_SAME, _Y], [("", "li")]),
    ("y", [_SAME, _LOST_E], [("", "i")]),
]
"""Spelling; what the rest ends with and what the word ends with instead; after which sounds, which are added."""
_BEGINNINGS = {
    "counter": "kˌWntəɹ", "under": "ˌʌndəɹ", "super": "sˌupəɹ", "inter": "ˌɪntəɹ", "multi": "mˌʌlti",
    "micro": "mˌIkɹO", "over": "ˌOvəɹ", "anti": "ˌænti", "semi": "sˌɛmi", "non": "nˌɑn", "pre": "pɹi", "mis": "mɪs",
    "dis": "dɪs", "sub": "sˌʌb", "out": "Wt", "un": "ˌʌn", "re": "ɹi",
}  # fmt: skip
_MARKS = {
    "arpabet": {";": ",", ":": ",", "—": ",", "–": ",", "…": "...", '"': "", "(": "", ")": ""},
    "kokoro": {"–": "—", '"': "", "[": "(", "]": ")"},
    "espeak": {"—": ",", "–": ",", "…": ".", '"': "", "(": "", ")": ""},
}
"""Punctuation that is said as another; "" is passed over without a word in the log."""
_OWN_MARKS = ".,;:!?—…()"


def text_files(
    kind: str,
    symbols: Symbols,
    *,
    language: str = "en-US",
    begin: Sequence[int] = (),
    after: Sequence[int] = (),
    end: Sequence[int] = (),
    prefix: str = "",
    **settings: Any,
) -> tuple[dict[str, Any], Files]:
    """kind: "characters", or the alphabet of a voice that reads sounds: "arpabet", "kokoro", "espeak".
    begin, after, end: ids around all symbols and after each; settings: further ones of the kind
    (`lower`, `space`, `leading_space`, `replace`); prefix: of the files' names, where a model has two languages.

    Raises: ValueError where there is no dictionary of the language.
    """
    chosen: dict[str, Any] = {
        "kind": "characters" if kind == "characters" else "phonemes",
        "language": language,
        "symbols": f"{prefix}symbols.json",
        **{key: list(ids) for key, ids in (("begin", begin), ("after", after), ("end", end)) if len(ids)},
        **settings,
    }
    files: Files = {f"{prefix}symbols.json": _json(dict(symbols))}
    rules = _rules(language)
    if rules is not None:
        chosen["rules"], files[f"{prefix}rules.json"] = f"{prefix}rules.json", _json(rules)
    if kind == "characters":
        return chosen, files
    british = _is_british(language)
    spaced = is_spaced(kind)
    chosen |= {
        "spaced": spaced,
        "lexicon": f"{prefix}lexicon.txt.gz",
        "letters": f"{prefix}letters.npz",
        "space": " " if " " in symbols else "",
        "vowels": VOWELS[kind],
        "vowel_letters": "aeiouy",
        "article": "a",
        "marks": _marks(kind, symbols),
        "beginnings": [
            {"spelling": spelling, "sounds": _symbols(said, kind, british)}
            for spelling, said in _BEGINNINGS.items()
        ],
        "weaker": {f"{v}1": f"{v}2" for v in ARPABET_VOWELS} if spaced else {"ˈ": "ˌ"},
        "endings": [
            {
                "spelling": spelling,
                "stems": [list(stem) for stem in stems],
                "sounds": [
                    [_symbols(lasts, kind, each=True), _symbols(said, kind)] for lasts, said in sounds
                ],
            }
            for spelling, stems, sounds in _ENDINGS
        ],
    }
    files[f"{prefix}lexicon.txt.gz"] = lexicon(kind, british)
    files[f"{prefix}letters.npz"] = letters(kind, british)
    return chosen, files


def mms_text(
    vocab: Mapping[str, int], *, add_blank: bool = True, language: str = "en-US"
) -> tuple[dict[str, Any], Files]:
    """For VITS checkpoints with transformers' vocab.json: lower case, id 0 around every character."""
    blank = [0] if add_blank else []
    symbols = {symbol: index for symbol, index in vocab.items() if len(symbol) == 1}
    # transformers: the Romanian comma below is written as a cedilla in MMS's vocabulary
    replace: dict[str, Any] = {"replace": {"ț": "ţ"}} if language.startswith("ro") else {}
    return text_files(
        "characters", symbols, language=language, begin=blank, after=blank, lower=True, **replace
    )


def speecht5_text(
    pieces: Sequence[str], end: int, *, language: str = "en-US"
) -> tuple[dict[str, Any], Files]:
    """For SpeechT5's sentencepiece of characters. pieces: by id; end: the id of </s>."""
    symbols = {piece: index for index, piece in enumerate(pieces) if len(piece) == 1}
    return text_files(
        "characters", symbols, language=language, end=[end], lower=True, space="▁", leading_space=True
    )


def espnet_text(vocab: Mapping[str, int], end: int) -> tuple[dict[str, Any], Files]:
    """For FastSpeech2Conformer's vocab.json (ARPAbet and punctuation). end: the id of <sos/eos>."""
    return text_files("arpabet", dict(vocab), end=[end])


def kokoro_text(
    vocab: Mapping[str, int], *, language: str = "en-US", prefix: str = ""
) -> tuple[dict[str, Any], Files]:
    """For the vocabulary in Kokoro's config.json: 0 at both ends."""
    return text_files("kokoro", dict(vocab), language=language, begin=[0], end=[0], prefix=prefix)


def espeak_text(phoneme_id_map: Mapping[str, Sequence[int]], voice: str) -> tuple[dict[str, Any], Files]:
    """For a Piper voice in a language without a dictionary here: the optional phonemiser says its sounds.

    voice: espeak-ng's name of it, as the voice's own configuration has it (`espeak.voice`).
    """
    begin, pad, end = (list(phoneme_id_map[mark]) for mark in "^_$")
    symbols = {symbol: list(ids) for symbol, ids in phoneme_id_map.items() if symbol not in ("^", "_", "$")}
    chosen = {
        "kind": "phonemes",
        "phonemiser": "espeak",
        "espeak_voice": voice,
        "symbols": "symbols.json",
        "begin": begin + pad,
        "after": pad,
        "end": end,
        "space": " " if " " in symbols else "",
        "marks": _marks("espeak", symbols),
    }
    return chosen, {"symbols.json": _json(symbols)}


def piper_text(
    phoneme_id_map: Mapping[str, Sequence[int]], *, language: str = "en-US"
) -> tuple[dict[str, Any], Files]:
    """For a Piper voice's phoneme_id_map: ^ at the beginning, $ at the end, _ after each."""
    begin, pad, end = (list(phoneme_id_map[mark]) for mark in "^_$")
    symbols = {symbol: list(ids) for symbol, ids in phoneme_id_map.items() if symbol not in ("^", "_", "$")}
    return text_files("espeak", symbols, language=language, begin=begin + pad, after=pad, end=end)


@cache
def lexicon(alphabet: str, british: bool = False) -> bytes:
    """misaki's dictionaries as a lexicon: gzip'd lines `word TAB sounds [TAB sounds before a vowel]`."""
    lines = []
    for word, misaki in pronunciations(british).items():
        said = [written(sounds, alphabet, british) for sounds in _WEAK.get(word, (misaki,))]
        lines.append("\t".join([word, *dict.fromkeys(said)]).encode() + b"\n")
    lines.sort(key=lambda line: line.split(b"\t", 1)[0])
    return gzip.compress(b"".join(lines), 9, mtime=0)


@cache
def pronunciations(british: bool = False) -> dict[str, str]:
    """Word → misaki's phonemes; of homographs the default."""
    words: dict[str, str] = {}
    for grade in ("silver", "gold"):
        name = f"{'gb' if british else 'us'}_{grade}.json"
        source = json.loads((importlib.resources.files("misaki") / "data" / name).read_text(encoding="utf-8"))
        for word, said in source.items():
            default = said if isinstance(said, str) else said.get("DEFAULT")
            if default and "\t" not in word:
                words[word] = default
    return words


def letters(alphabet: str, british: bool = False) -> bytes:
    """g2p-en's net with its outputs in an alphabet, as .npz of half-precision arrays."""
    with np.load(HERE / "data" / "letters_en.npz") as saved:
        arrays = {name: saved[name] for name in saved.files}
    sounds = []
    for phone in arrays.pop("phones"):
        said = written(from_arpabet(str(phone), british), alphabet, british=british)
        sounds.append(said if is_spaced(alphabet) else " ".join(said))
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays, sounds=np.array(sounds))
    return packed.getvalue()


def _symbols(misaki: str, alphabet: str, british: bool = False, each: bool = False) -> list[str]:
    """In an alphabet; each: the last symbol of every one by itself, as a word may end."""
    if each:
        return list(dict.fromkeys(_symbols(symbol, alphabet)[-1] for symbol in misaki))
    said = written(as_british(misaki) if british else misaki, alphabet, british=british)
    return said.split() if is_spaced(alphabet) else list(said)


def _marks(alphabet: str, symbols: Symbols) -> dict[str, str]:
    marks = {mark: mark for mark in _OWN_MARKS} | _MARKS[alphabet]
    return {mark: said for mark, said in marks.items() if not said or said in symbols}


def _rules(language: str) -> dict[str, Any] | None:
    primary = language.split("-")[0].lower()
    found = [HERE / "languages" / f"{name}.json" for name in dict.fromkeys((primary, language))]
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in found if path.exists()]
    return {key: value for part in parts for key, value in part.items()} if parts else None


def _is_british(language: str) -> bool:
    if language.split("-")[0].lower() != "en":
        raise ValueError(
            f"there is no dictionary of {language}: choose the phonemiser espeak (pip install 'parley[espeak]') "
            "or a checkpoint that reads letters"
        )
    return language.lower() in ("en-gb", "en-au", "en-nz", "en-ie", "en-za", "en-in")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()
