"""espeak-ng (GPL-3.0-or-later) in a process of its own: a line of JSON in, a line of JSON out.

In: a list of clauses. Out: {"sounds": [IPA of each]} or {"error": sentence}. Run as a script, with no import
from Parley; Parley imports nothing of it either.
"""

from __future__ import annotations

import ctypes
import json
import sys

RETRIEVAL, UTF8, IPA = 1, 1, 2
"""espeak's AUDIO_OUTPUT_RETRIEVAL, espeakCHARS_UTF8 and the phoneme mode of IPA letters."""


def main(voice: str) -> None:
    try:
        say = _open(voice)
    except Exception as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    print(json.dumps({"sounds": []}), flush=True)
    for line in sys.stdin:
        try:
            answer: dict[str, object] = {"sounds": [say(clause) for clause in json.loads(line)]}
        except Exception as error:
            answer = {"error": f"espeak could not read a text: {error}"}
        print(json.dumps(answer), flush=True)


def _open(voice: str):  # type: ignore[no-untyped-def]
    try:
        import espeakng_loader
    except ImportError:
        raise RuntimeError(
            "the phonemiser espeak is not installed: pip install 'parley[espeak]' (GPL-3.0-or-later), or export the "
            "model with its default, the permissive lexicon"
        ) from None
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path().encode()
    if library.espeak_Initialize(RETRIEVAL, 0, data, 0) < 0:
        raise RuntimeError(
            "espeak-ng found no data beside its library: pip install --force-reinstall espeakng-loader"
        )
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise RuntimeError(f"espeak-ng has no voice {voice!r}; correct espeak_voice in front.json")
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p

    def say(clause: str) -> str:
        text = ctypes.c_char_p(clause.encode())
        said = []
        while text.value:
            said.append((library.espeak_TextToPhonemes(ctypes.byref(text), UTF8, IPA) or b"").decode())
        return " ".join(said)

    return say


if __name__ == "__main__":
    main(sys.argv[1])
