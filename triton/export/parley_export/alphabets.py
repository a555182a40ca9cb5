"""One pronunciation in the three ways models write it: misaki's IPA (Kokoro), espeak's (Piper), ARPAbet (FastSpeech2).

misaki's symbols: https://github.com/hexgrad/misaki/blob/main/EN_PHONES.md (A I O Q W Y are diphthongs, ʤ ʧ
affricates, ᵊ a schwa that may vanish, ᵻ a reduced i, ɾ a flapped t, stress before the vowel). ARPAbet: the phone
set of CMUdict, a vowel followed by its stress 0, 1 or 2. espeak's: what `espeak-ng --ipa -v en-us` writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_ARPABET_VOWELS = {
    "æ": "AE", "ɑ": "AA", "ɒ": "AA", "ɔ": "AO", "ə": "AH", "ɐ": "AH", "ʌ": "AH", "ᵊ": "AH", "ɛ": "EH", "ɜ": "AH",
    "ɜɹ": "ER", "əɹ": "ER", "ɪ": "IH", "ᵻ": "IH", "i": "IY", "ʊ": "UH", "u": "UW", "a": "AE",
    "A": "EY", "I": "AY", "O": "OW", "Q": "OW", "W": "AW", "Y": "OY",
}  # fmt: skip
_ARPABET_CONSONANTS = {
    "b": "B", "d": "D", "f": "F", "h": "HH", "j": "Y", "k": "K", "l": "L", "m": "M", "n": "N", "p": "P", "s": "S",
    "t": "T", "v": "V", "w": "W", "z": "Z", "ð": "DH", "ŋ": "NG", "ɡ": "G", "ɹ": "R", "ʃ": "SH", "ʒ": "ZH",
    "ʤ": "JH", "ʧ": "CH", "θ": "TH", "ɾ": "T", "ʔ": "T", "ː": "",
}  # fmt: skip
_ESPEAK_US = {
    "A": "eɪ", "I": "aɪ", "O": "oʊ", "Q": "əʊ", "W": "aʊ", "Y": "ɔɪ", "ʤ": "dʒ", "ʧ": "tʃ", "ᵊ": "ə",
    "ɜɹ": "ɜː", "əɹ": "ɚ", "ɑ": "ɑː", "ɔ": "ɔː", "u": "uː", "ˈi": "ˈiː", "ˌi": "ˌiː",
}  # fmt: skip
_ESPEAK_GB = {
    "A": "eɪ",
    "I": "aɪ",
    "Q": "əʊ",
    "W": "aʊ",
    "Y": "ɔɪ",
    "ʤ": "dʒ",
    "ʧ": "tʃ",
    "ᵊ": "ə",
    "ɛː": "eə",
}
_KOKORO = {"ɾ": "T", "ʔ": "t"}
"""Kokoro's first two versions were trained with these."""
_FROM_ARPABET = {
    "AE": "æ", "AA": "ɑ", "AO": "ɔ", "AH": "ʌ", "EH": "ɛ", "ER": "ɜɹ", "IH": "ɪ", "IY": "i", "UH": "ʊ", "UW": "u",
    "EY": "A", "AY": "I", "OW": "O", "AW": "W", "OY": "Y",
}  # fmt: skip
_BRITISH = {"æ": "a", "ɑ": "ɒ", "ɔ": "ɔː", "ɜɹ": "ɜː", "əɹ": "ə", "i": "iː", "u": "uː", "O": "Q"}
ARPABET_VOWELS = tuple(_FROM_ARPABET)
ALPHABETS = ("arpabet", "kokoro", "espeak")
VOWELS = {
    "arpabet": [v + s for v in _FROM_ARPABET for s in "012"],
    "kokoro": list("ˈˌAIOQWYaiuæɑɒɔəɐɛɜɪʊʌᵻᵊ"),
    "espeak": list("ˈˌaeioɐæɑɒɔəɚɛɜɪʊuʌᵻ"),
}
"""Symbols with which a word that begins with a vowel begins: stress stands before vowels only."""


def is_spaced(alphabet: str) -> bool:
    """Whether symbols are words of their own (ARPAbet), not characters."""
    return alphabet == "arpabet"


def written(misaki: str, alphabet: str, british: bool = False) -> str:
    """misaki's phonemes in an alphabet; ARPAbet's symbols separated by spaces.

    Raises: ValueError for a symbol that misaki does not have.
    """
    if alphabet == "kokoro":
        return _replaced(misaki, _KOKORO)
    if alphabet == "espeak":
        return _replaced(misaki, _ESPEAK_GB if british else _ESPEAK_US)
    if alphabet == "arpabet":
        return " ".join(_arpabet(misaki))
    raise ValueError(f"alphabet {alphabet!r} is not known; it is one of {', '.join(ALPHABETS)}")


def from_arpabet(phone: str, british: bool = False) -> str:
    """One ARPAbet phone in misaki's symbols; "" for what is none (<unk>, …)."""
    found = re.fullmatch(r"([A-Z]+)([012]?)", phone)
    if not found:
        return ""
    name, stress = found.groups()
    consonants = {arpabet: misaki for misaki, arpabet in _ARPABET_CONSONANTS.items() if misaki not in "ɾʔː"}
    if name in consonants:
        return consonants[name]
    vowel = _FROM_ARPABET.get(name, "")
    if stress in ("", "0"):
        vowel = {"ʌ": "ə", "ɜɹ": "əɹ"}.get(vowel, vowel)
    if british:
        vowel = _BRITISH.get(vowel, vowel)
    return {"1": "ˈ", "2": "ˌ"}.get(stress, "") + vowel if vowel else ""


def as_british(misaki: str) -> str:
    """American symbols in the British ones nearest to them, sound by sound."""
    return _replaced(misaki, _BRITISH)


def _arpabet(misaki: str) -> list[str]:
    phones, stress, at = [], "0", 0
    while at < len(misaki):
        symbol = misaki[at : at + 2] if misaki[at : at + 2] in _ARPABET_VOWELS else misaki[at]
        at += len(symbol)
        if symbol in "ˈˌ":
            stress = "1" if symbol == "ˈ" else "2"
        elif symbol in _ARPABET_VOWELS:
            phones.append(_ARPABET_VOWELS[symbol] + stress)
            stress = "0"
        elif symbol in _ARPABET_CONSONANTS:
            phone = _ARPABET_CONSONANTS[symbol]
            phones += [phone] if phone else []
        else:
            raise ValueError(f"{symbol!r} (U+{ord(symbol):04X}) is no symbol of misaki's English")
    return phones


def _replaced(text: str, table: Mapping[str, str]) -> str:
    """The longest first, from left to right."""
    pattern = "|".join(re.escape(key) for key in sorted(table, key=len, reverse=True))
    return re.sub(pattern, lambda found: table[found[0]], text)
