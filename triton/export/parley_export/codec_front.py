"""The front of a codec: how the LLM before it is asked, and how its tokens become codes.

Orpheus' way (github.com/canopyai/Orpheus-TTS, Apache-2.0: its prompt, sampling and token order), as far as no
option says otherwise. Token N of `<custom_token_N>` at place p of its frame is code N - 10 - p * codebook size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parley_export.checkpoint import ExportError

PROMPT = "<custom_token_3><|begin_of_text|>{voice}: {text}<|eot_id|><custom_token_4><custom_token_5><custom_token_1>"
TOKEN = r"<custom_token_(\d+)>"
END = "<custom_token_2>"
FIRST_TOKEN = 10
VOICES = "tara,leah,jess,leo,dan,mia,zac,zoe"
SAMPLING = {"temperature": 0.6, "top_p": 0.8, "repetition_penalty": 1.3}
URL = "http://127.0.0.1:8000/v1"
FRONTS = ("llm", "none")


def front(
    codec: Mapping[str, Any], order: Sequence[int], codebook_size: int, options: Mapping[str, str]
) -> tuple[str, dict[str, Any], dict[str, str]]:
    """(kind of the export, front.json, parameters of config.pbtxt).

    codec: what the front must know of its graph: rate, samples and rows a frame, …
    order: place in the frame's tokens of each row of codes.
    options: front=none leaves the front out; llm, llm_model, prompt, voices, language, first_token.
    Raises: ExportError.
    """
    wanted = options.get("front", "llm")
    if wanted not in FRONTS:
        raise ExportError(f"option front={wanted} is unknown; known: {', '.join(FRONTS)}")
    if wanted == "none":
        return "codec", dict(codec), {}
    voices = [name.strip() for name in options.get("voices", VOICES).split(",") if name.strip()]
    if not voices:
        raise ExportError("option voices names no voice")
    language = options.get("language", "en-US")
    told = {
        "kind": "codec",
        **codec,
        "tokens": {
            "pattern": TOKEN,
            "first": _whole(options, "first_token", FIRST_TOKEN),
            "codebook_size": codebook_size,
            "order": list(order),
        },
        "llm": {"prompt": options.get("prompt", PROMPT), "end": END, "sampling": SAMPLING},
        "voices": [{"name": name, "language": language, "gain": 1.0} for name in voices],
        "seed": None,
    }
    parameters = {
        "languages": language,
        "voices": ",".join(voices),
        "voice_languages": ",".join([language] * len(voices)),
        "sample_rate": str(codec["rate"]),
        "tags": "streaming,llm",
        # An OpenAI-compatible server (vLLM, NIM) whose model speaks this codec's tokens.
        "llm": options.get("llm", URL),
        "llm_model": options.get("llm_model", ""),
        # The environment variable that holds its key, where it wants one.
        "llm_key_from": "PARLEY_TTS_LLM_KEY",
        "llm_first_token_s": "10",
        "llm_next_token_s": "5",
        "max_streams": "64",
    }
    return "tts", told, parameters


def _whole(options: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(options.get(name, default))
    except ValueError:
        raise ExportError(f"option {name}={options[name]} is no whole number") from None
