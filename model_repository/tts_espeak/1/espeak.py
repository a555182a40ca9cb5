"""espeak-ng through ctypes: it calls back with audio while it speaks.

espeak-ng is GPL-3.0-or-later. It is loaded here, in this model's own process, and nowhere else.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Callable
from typing import Any

import numpy as np

from gateway.triton.models.voices import Voice

VOICES = (
    Voice("en-us", "en-US", "en-us+klatt4", 1.08),
    Voice("en-us-classic", "en-US", "en-us", 1.5),
    Voice("en-us-female", "en-US", "en-us+f3", 1.41),
    Voice("en-gb", "en-GB", "en+klatt4", 1.08),
    Voice("en-gb-classic", "en-GB", "en", 1.36),
    Voice("en-gb-female", "en-GB", "en+f3", 1.33),
    Voice("en-gb-scotland", "en-GB", "en-gb-scotland", 1.26),
    Voice("de", "de-DE", "de", 1.52),
    Voice("fr", "fr-FR", "fr", 1.72),
    Voice("es", "es-ES", "es", 1.47),
    Voice("es-us", "es-US", "es-419", 1.44),
    Voice("it", "it-IT", "it", 1.47),
    Voice("pt-br", "pt-BR", "pt-br", 1.35),
    Voice("nl", "nl-NL", "nl", 1.42),
    Voice("pl", "pl-PL", "pl", 1.61),
    Voice("hi", "hi-IN", "hi", 1.25),
)
"""The English ones use a Klatt voice: a recogniser misses 29 % of their words, 77 % of the classic ones'."""
BUFFER_MS = 40
WORDS_PER_MINUTE = 150
VOLUME = 70
"""Percent: at 100 the Klatt voices clip inside the engine; the gains make up for it."""
SYNCHRONOUS, DO_NOT_EXIT, UTF8, OK = 2, 0x8000, 1, 0
SET_RATE, SET_VOLUME = 1, 2
_CALLBACK = c.CFUNCTYPE(c.c_int, c.POINTER(c.c_short), c.c_int, c.c_void_p)


class Espeak:
    """The engine. It holds global state: one per process, one caller at a time."""

    voices: tuple[Voice, ...] = VOICES
    threads = 1
    rests = False
    piece_chars = 250
    """12 ms of work."""

    def __init__(self) -> None:
        try:
            import espeakng_loader

            self._lib = c.CDLL(espeakng_loader.get_library_path())
            data = espeakng_loader.get_data_path()
        except (ImportError, OSError) as error:
            raise RuntimeError(
                f"tts_espeak needs espeak-ng (GPL-3.0-or-later): pip install 'parley[espeak]' ({error})"
            ) from None
        lib = self._lib
        lib.espeak_Initialize.argtypes = [c.c_int, c.c_int, c.c_char_p, c.c_int]
        lib.espeak_SetSynthCallback.argtypes = [_CALLBACK]
        lib.espeak_SetVoiceByName.argtypes = [c.c_char_p]
        lib.espeak_SetParameter.argtypes = [c.c_int, c.c_int, c.c_int]
        lib.espeak_Synth.argtypes = [
            c.c_char_p, c.c_size_t, c.c_uint, c.c_int, c.c_uint, c.c_uint, c.c_void_p, c.c_void_p,
        ]  # fmt: skip
        self.rate: int = lib.espeak_Initialize(SYNCHRONOUS, BUFFER_MS, str(data).encode(), DO_NOT_EXIT)
        if self.rate <= 0:
            raise RuntimeError(f"espeak-ng cannot read its data in {data}; install 'parley[espeak]' again")
        self._heard: Callable[[np.ndarray[Any, Any]], bool] | None = None
        self._callback = _CALLBACK(self._called)
        lib.espeak_SetSynthCallback(self._callback)

    def synthesize(
        self, text: str, voice: Voice, speed: float, heard: Callable[[np.ndarray[Any, Any]], bool]
    ) -> None:
        if not any(sign.isalnum() for sign in text):
            return  # espeak-ng would name the punctuation or be silent, by voice
        if self._lib.espeak_SetVoiceByName(voice.engine_name.encode()) != OK:
            raise RuntimeError(f"espeak-ng has no voice {voice.engine_name}")
        self._lib.espeak_SetParameter(SET_RATE, round(WORDS_PER_MINUTE * speed), 0)
        self._lib.espeak_SetParameter(SET_VOLUME, VOLUME, 0)
        data = text.replace("\0", " ").encode()
        self._heard = heard
        try:
            if self._lib.espeak_Synth(data, len(data) + 1, 0, 0, 0, UTF8, None, None) != OK:
                raise RuntimeError("espeak-ng could not speak this text")
        finally:
            self._heard = None

    def _called(self, samples: Any, count: int, events: int | None) -> int:
        """1 ends the synthesis."""
        heard = self._heard
        if heard is None:
            return 1
        if not samples or count <= 0:
            return 0
        return 0 if heard(np.ctypeslib.as_array(samples, (count,)).copy()) else 1
