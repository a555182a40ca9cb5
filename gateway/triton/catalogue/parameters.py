"""The `parameters` of a config.pbtxt: what a model says of itself to people and to routing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.triton.catalogue.findings import Finding, error, warning
from gateway.triton.catalogue.folder import CONFIG, ModelFolder
from gateway.triton.model_info import NO, YES

_LANGUAGE = re.compile(
    r"[a-z]{2,3}(-[a-z]{3}){0,3}(-[a-z]{4})?(-([a-z]{2}|[0-9]{3}))?(-([a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*"
    r"(-[0-9a-wy-z](-[a-z0-9]{2,8})+)*(-x(-[a-z0-9]{1,8})+)?|x(-[a-z0-9]{1,8})+",
    re.IGNORECASE,
)
RATES = (8_000, 192_000)
"""Hz of audio that anybody can use."""
_FLAGS = ("needs_gpu", "streaming", "default")


def is_language(tag: str) -> bool:
    """Whether `tag` is BCP-47: "en", "en-GB", "zh-Hant-TW", "es-419"."""
    return bool(_LANGUAGE.fullmatch(tag))


def check_parameters(folder: ModelFolder, config: ModelConfig) -> Iterator[Finding]:
    """Numbers that are none, flags that are neither, languages and voices that nobody could ask for."""
    file = f"{folder.where}/{CONFIG}"

    def value(key: str) -> str:
        return str(config.parameters[key].string_value).strip() if key in config.parameters else ""

    def values(key: str) -> list[str]:
        return [item.strip() for item in value(key).split(",") if item.strip()]

    def line(key: str) -> int:
        return folder.line_of(f'"{key}"')

    def bad(key: str, text: str) -> Finding:
        return error(f"parameter {key}: {text}", file, line(key))

    for key, least, most in (("sample_rate", *RATES), ("memory_mb", 0, 1 << 24), ("max_streams", 0, 1 << 20)):
        said = value(key)
        if not said:
            continue
        if not (said.isascii() and said.isdecimal()):
            yield bad(key, f'"{said}" is not a number')
        elif not least <= int(said) <= most:
            yield bad(key, f"{said} is not within {least} and {most}")
    for key in _FLAGS:
        if value(key) and value(key).lower() not in YES + NO:
            yield bad(key, f'"{value(key)}" is neither true nor false')
    for key in ("languages", "voice_languages"):
        for tag in dict.fromkeys(values(key)):
            if not is_language(tag):
                fixed = tag.replace("_", "-")
                hint = f'; write "{fixed}"' if is_language(fixed) else ""
                yield bad(key, f'"{tag}" is no BCP-47 language{hint}')
    voices, spoken = values("voices"), values("voice_languages")
    for name in _twice(voices):
        yield bad("voices", f'voice "{name}" is there twice')
    if spoken and len(spoken) != len(voices):
        yield bad("voice_languages", f"{len(spoken)} languages for {len(voices)} voices: one for each")
    languages = {tag.lower() for tag in values("languages")}
    for tag in dict.fromkeys(spoken):
        if languages and tag.lower() not in languages:
            yield bad("voice_languages", f'"{tag}" is not among its languages')
    if value("license") and value("licence") and value("license") != value("licence"):
        yield warning("license and licence do not say the same", file, line("licence"))


def _twice(names: list[str]) -> list[str]:
    seen: set[str] = set()
    again = []
    for name in names:
        if name.lower() in seen:
            again.append(name)
        seen.add(name.lower())
    return again
