"""The families of models that can be exported, by the name that `parley models export` takes."""

from __future__ import annotations

ASR_FAMILIES = ("whisper", "moonshine", "parakeet-ctc", "parakeet-rnnt", "fastconformer", "zipformer")
TTS_FAMILIES = ("vits", "speecht5", "fastspeech2", "piper", "kokoro")
CODEC_FAMILIES = ("mimi", "snac")
"""Decoders of audio tokens: graphs for voices whose tokens an LLM speaks."""
GENERATED_FAMILIES = ("csm", "cosyvoice2", "xtts", "parler", "melo", "spark")
"""Voices that stay programs, in environments of their own (triton/families)."""
FAMILIES = (*ASR_FAMILIES, *TTS_FAMILIES, *CODEC_FAMILIES, *GENERATED_FAMILIES)
