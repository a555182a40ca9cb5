"""flite through ctypes: its streaming hook calls back while a sentence is being synthesised."""

from __future__ import annotations

import ctypes as c
import os
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np

from gateway.triton.models.voices import Voice

VOICES = (
    Voice("slt", "en-US", "slt", 0.52),
    Voice("rms", "en-US", "rms", 1.0),
    Voice("awb", "en-GB", "awb", 0.88),
    Voice("kal16", "en-US", "kal16", 2.3),
)
"""slt a woman, rms a man, awb a Scot, kal16 the diphone voice; all at 16 kHz."""
MISSING = (
    "tts_flite needs the flite library: apt-get install libflite1 (Debian, Ubuntu), or your system's package"
)
CONTINUE, STOP = 0, -1


class _Wave(c.Structure):
    _fields_ = (
        ("type", c.c_char_p),
        ("sample_rate", c.c_int),
        ("num_samples", c.c_int),
        ("num_channels", c.c_int),
        ("samples", c.POINTER(c.c_short)),
    )


class _UtteranceHead(c.Structure):
    _fields_ = (("features", c.c_void_p),)


_HOOK = c.CFUNCTYPE(c.c_int, c.POINTER(_Wave), c.c_int, c.c_int, c.c_int, c.c_void_p)


class _StreamingInfo(c.Structure):
    _fields_ = (("min_buffsize", c.c_int), ("callback", _HOOK), ("userdata", c.c_void_p))


class Flite:
    """The engine with the voices that are installed. Any number of threads may speak at once: what a
    synthesis changes belongs to its own utterance."""

    rate = 16_000
    threads = len(os.sched_getaffinity(0))
    rests = True
    piece_chars = 160
    """36 ms of work before the first sample, a third of all."""

    def __init__(self) -> None:
        try:
            self._lib = c.CDLL("libflite.so.1", mode=c.RTLD_GLOBAL)
            for name in ("cmulex", "usenglish"):
                c.CDLL(f"libflite_{name}.so.1", mode=c.RTLD_GLOBAL)
        except OSError as error:
            raise RuntimeError(f"{MISSING} ({error})") from None
        lib = self._lib
        lib.flite_init()
        lib.new_utterance.restype = c.POINTER(_UtteranceHead)
        lib.utt_set_input_text.argtypes = [c.c_void_p, c.c_char_p]
        lib.utt_init.argtypes = [c.c_void_p, c.c_void_p]
        lib.utt_synth.argtypes = [c.c_void_p]
        lib.delete_utterance.argtypes = [c.c_void_p]
        lib.new_audio_streaming_info.restype = c.POINTER(_StreamingInfo)
        lib.audio_streaming_info_val.restype = c.c_void_p
        lib.audio_streaming_info_val.argtypes = [c.c_void_p]
        lib.feat_set.argtypes = [c.c_void_p, c.c_char_p, c.c_void_p]
        lib.feat_set_float.argtypes = [c.c_void_p, c.c_char_p, c.c_float]
        self._loaded: dict[str, Any] = {}
        self.voices = tuple(voice for voice in VOICES if self._load(voice.engine_name))
        if not self.voices:
            raise RuntimeError(MISSING)

    def synthesize(
        self, text: str, voice: Voice, speed: float, heard: Callable[[np.ndarray[Any, Any]], bool]
    ) -> None:
        words = _ascii(text)
        if not any(sign.isalnum() for sign in words):
            return

        def called(wave: Any, start: int, size: int, last: int, info: int | None) -> int:
            if size <= 0:
                return CONTINUE
            samples = np.ctypeslib.as_array(wave.contents.samples, (start + size,))[start:].copy()
            return CONTINUE if heard(samples) else STOP

        lib, hook = self._lib, _HOOK(called)
        info = lib.new_audio_streaming_info()
        info.contents.callback = hook
        utterance = lib.new_utterance()
        try:
            lib.utt_set_input_text(utterance, words.encode())
            lib.utt_init(utterance, self._loaded[voice.engine_name])
            features = utterance.contents.features  # these overlay the voice's own
            lib.feat_set(features, b"streaming_info", lib.audio_streaming_info_val(c.cast(info, c.c_void_p)))
            lib.feat_set_float(features, b"duration_stretch", 1.0 / speed)
            lib.utt_synth(utterance)
        finally:
            lib.delete_utterance(utterance)  # and the streaming info with it

    def _load(self, name: str) -> bool:
        try:
            library = c.CDLL(f"libflite_cmu_us_{name}.so.1", mode=c.RTLD_GLOBAL)
        except OSError:
            return False
        register = getattr(library, f"register_cmu_us_{name}")
        register.restype = c.c_void_p
        register.argtypes = [c.c_void_p]
        self._loaded[name] = c.c_void_p(register(None))
        return True


def _ascii(text: str) -> str:
    """flite knows ASCII; typographic signs and accents become their plain forms."""
    plain = text.translate(
        {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2013: ", ", 0x2014: ", ", 0x2026: "..."}
    )
    return unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode().replace("\0", " ")
