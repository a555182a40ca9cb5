"""Settings out of files: one file a variable, as Docker and Kubernetes mount secrets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic_settings import BaseSettings, EnvSettingsSource

FOLDER = "PARLEY_SECRETS"
"""Environment variable that names the folder; each file in it is called as the variable it stands for."""


class SecretFilesSource(EnvSettingsSource):
    """`PARLEY_LLM__API_KEY` in the folder is read as that variable would be. An empty file says nothing.

    Raises: OSError, UnicodeDecodeError where the folder or a file cannot be read.
    """

    def __init__(self, settings_cls: type[BaseSettings], folder: str) -> None:
        self._folder = Path(folder)
        super().__init__(settings_cls)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        files = [file for file in self._folder.iterdir() if file.name.upper().startswith("PARLEY_")]
        texts = {file.name.lower(): file.read_text(encoding="utf-8").strip() for file in files}
        return {name: text for name, text in texts.items() if text}


def secret_files(settings_cls: type[BaseSettings]) -> list[SecretFilesSource]:
    """The source, where the environment names a folder."""
    folder = os.environ.get(FOLDER)
    return [SecretFilesSource(settings_cls, folder)] if folder else []
