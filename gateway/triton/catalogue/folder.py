"""A model folder as it was read, wherever it lies: what is in it, and the few texts that matter."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

CONFIG = "config.pbtxt"
MAX_TEXT_BYTES = 1 << 20
"""Longer texts are not looked into."""
MAX_ENTRIES = 5_000
"""Of one model folder; what is beyond is not seen."""
_VERSION = re.compile(r"[1-9][0-9]*")


class BadConfig(ValueError):
    """A config.pbtxt that is no model config; `line` counts from 1, 0 when it is not known."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One folder of a repository."""

    name: str
    repository: str
    """As it was named: a path, or an object store's URL in Triton's spelling."""
    entries: frozenset[str]
    """Relative, two levels deep; folders end in "/": "config.pbtxt", "1/", "1/model.py"."""
    texts: Mapping[str, bytes]
    """config.pbtxt and the Python files of the versions, as far as they are not too long."""

    @property
    def where(self) -> str:
        return f"{self.repository.rstrip('/')}/{self.name}"

    def versions(self) -> list[int]:
        """Ascending."""
        folders = (entry[:-1] for entry in self.entries if entry.endswith("/"))
        return sorted(int(name) for name in folders if _VERSION.fullmatch(name))

    def config(self) -> ModelConfig:
        """An empty one named after the folder where there is no config.pbtxt. Raises: BadConfig."""
        config = ModelConfig()
        try:
            text_format.Parse(self.texts.get(CONFIG, b"").decode("utf-8"), config)
        except UnicodeDecodeError as error:
            line = self.texts[CONFIG].count(b"\n", 0, error.start) + 1
            raise BadConfig("it is not UTF-8 text", line) from None
        except text_format.ParseError as error:
            said = re.sub(r"^\d+:\d+ ?: ?", "", str(error)).strip()
            raise BadConfig(said, error.GetLine() or 0) from None
        config.name = config.name or self.name
        return config

    def line_of(self, *tokens: str) -> int:
        """The first line of config.pbtxt with all of these, comments aside; 0 when there is none."""
        text = self.texts.get(CONFIG, b"").decode("utf-8", "replace")
        for number, line in enumerate(text.splitlines(), 1):
            code = line.partition("#")[0]
            if all(token in code for token in tokens):
                return number
        return 0


def wanted_text(entry: str) -> bool:
    """Whether the content of this entry is looked at."""
    folder, _, name = entry.rpartition("/")
    return entry == CONFIG or bool(_VERSION.fullmatch(folder) and name.endswith(".py"))


def is_model_name(name: str) -> bool:
    """Hidden and private folders of a repository are no models."""
    return bool(name) and not name.startswith((".", "_"))


def read_local(repository: Path) -> list[ModelFolder]:
    """Every model folder of a repository on this machine, by name. Blocks.

    Raises: OSError when the repository itself cannot be read; a model folder that cannot is empty.
    """
    names = sorted(one.name for one in os.scandir(repository) if one.is_dir() and is_model_name(one.name))
    return [_read_folder(repository, name) for name in names]


def _read_folder(repository: Path, name: str) -> ModelFolder:
    entries: set[str] = set()
    texts: dict[str, bytes] = {}
    for path, prefix in _two_levels(repository / name):
        entry = prefix + path.name
        try:
            if path.is_dir():
                entry += "/"
            elif wanted_text(entry) and path.stat().st_size <= MAX_TEXT_BYTES:
                texts[entry] = path.read_bytes()
        except OSError:
            pass  # gone meanwhile, or not ours to read: its text is missing, and that is said
        entries.add(entry)
        if len(entries) >= MAX_ENTRIES:
            break
    return ModelFolder(name, str(repository), frozenset(entries), texts)


def _two_levels(folder: Path) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    for path in _listed(folder):
        found.append((path, ""))
        if _VERSION.fullmatch(path.name) and path.is_dir():
            found += [(inner, f"{path.name}/") for inner in _listed(path)]
    return found


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
