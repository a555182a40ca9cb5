"""A model's folder with a text part, made by a test."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.text import load_text

RULES = Path(__file__).parents[5] / "triton/export/parley_export/languages/en.json"


class TextFolderOf:
    def __init__(self, path: Path, settings: Mapping[str, Any], **files: bytes) -> None:
        self.front = {"text": dict(settings)}
        self._path = path
        for name, content in files.items():
            self.path(name).write_bytes(content)

    def path(self, name: str) -> Path:
        return self._path / name

    def read_json(self, name: str) -> Any:
        return json.loads(self.path(name).read_bytes())


def lexicon(*lines: str) -> bytes:
    return gzip.compress("".join(f"{line}\n" for line in sorted(lines, key=str.encode)).encode())


def speaker(
    path: Path, symbols: str, settings: Mapping[str, Any], *lines: str
) -> tuple[Callable[[str], NDArray[np.int64]], Callable[[str], str]]:
    """The loaded function, and the same with its numbers turned back into symbols. One character a symbol."""
    ids = {symbol: 100 + index for index, symbol in enumerate(symbols)}
    folder = TextFolderOf(
        path,
        {"symbols": "symbols", "rules": "rules", "lexicon": "lexicon", **settings},
        symbols=json.dumps(ids).encode(),
        rules=RULES.read_bytes(),
        lexicon=lexicon(*lines or ("a\tA",)),
    )
    load = load_text(folder)
    names = {number: symbol for symbol, number in ids.items()}
    return load, lambda text: "".join(names.get(int(i), f"<{i}>") for i in load(text))
