"""Which synthesiser the settings ask for."""

from __future__ import annotations

from gateway.settings import TtsSettings
from gateway.speak.riva_tts import RivaSynthesizer
from gateway.speak.triton_tts import TritonSynthesizer
from gateway.speak.tts import Synthesizer


def make_synthesizer(settings: TtsSettings) -> Synthesizer:
    """A synthesiser of `settings.kind`; must be made on the event loop that will use it."""
    return RivaSynthesizer(settings) if settings.kind == "riva" else TritonSynthesizer(settings)
