"""Where weights come from: a folder, or random ones from a seed for tests and load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from gateway.triton.pulling.licences import Licence, is_licence_text, licence_of_card, licence_of_text

RANDOM = "random:"
UNKNOWN = "LicenseRef-unknown"
"""Of weights whose source names no licence."""


class ExportError(Exception):
    """Why nothing was exported; `str()` is a sentence for whoever asked for it."""


@dataclass(frozen=True)
class Checkpoint:
    family: str
    source: str
    """As it was asked for: random:small, random:CONFIG, a folder; or the hub's id of what lies in `folder`."""
    folder: Path | None
    """None where the weights are random."""
    revision: str = ""
    seed: int = 0

    @property
    def is_random(self) -> bool:
        return self.folder is None

    @property
    def label(self) -> str:
        """Short name for models made from it."""
        if self.is_random:
            name = self.source.removeprefix(RANDOM)
            return name if name == "small" else Path(name).stem
        return self.source.rstrip("/").split("/")[-1]

    def config(self, make: Any, small: Mapping[str, Any]) -> Any:
        """A transformers configuration: the checkpoint's, `small`, or the file after random:.

        Raises: ExportError.
        """
        if self.folder is not None:
            try:
                return make.from_pretrained(self.folder)
            except Exception as error:
                raise self._no_model(error) from error
        name = self.source.removeprefix(RANDOM)
        if name == "small":
            return make(**small)
        try:
            told = json.loads(Path(name).read_text("utf-8"))
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or error
            raise ExportError(f"{name} is neither small nor a config.json that can be read: {why}") from None
        return make.from_dict(told)

    def model(
        self, make: Any, config: Any, *, enliven: Callable[[Any], None] | None = None, **load: Any
    ) -> Any:
        """The model in FP32, ready for inference. Random weights come from the seed; `enliven` then scales
        them, so that a recogniser does not answer blanks alone and a voice is not silent.

        Raises: ExportError.
        """
        torch.manual_seed(self.seed)
        if self.folder is None:
            model = make(config)
            model.eval()
            if enliven is not None:
                with torch.no_grad():
                    enliven(model)
        else:
            try:
                model, found = make.from_pretrained(
                    self.folder, config=config, dtype=torch.float32, output_loading_info=True, **load
                )
            except Exception as error:  # a file that is cut short has errors of its reader's own
                raise self._no_model(error) from error
            self._check_whole(make, found)
        model.eval().float()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        return model

    def _no_model(self, error: Exception) -> ExportError:
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        return ExportError(f"{self.source} holds no {self.family} that can be read: {first}")

    def _check_whole(self, make: Any, found: Mapping[str, Any]) -> None:
        """transformers only warns of weights that a file lacks, and draws them at random. Raises: ExportError."""
        lacking = sorted(map(str, found.get("missing_keys") or ()))
        if lacking:
            few = ", ".join(lacking[:3]) + (" …" if len(lacking) > 3 else "")
            raise ExportError(
                f"{self.source} lacks {len(lacking)} of the weights of a {make.__name__} ({few}): it is of another "
                "architecture, or not whole"
            )

    @property
    def license(self) -> str:
        """SPDX, as the head of its model card says it, else its licence's text; "" where nothing does."""
        return (self._license_of_card() or self._license_of_text()) if self.folder is not None else ""

    def licensed(self, published: str, *publishers: str) -> str:
        """SPDX of weights that say nothing themselves. published: of the family's own checkpoints, which only an id of
        one of the publishers (owners at the hub) stands for; a folder or somebody else's may be anything. A licence
        that bars commercial use is taken for theirs all the same."""
        if self.is_random:
            return "CC0-1.0"
        if self.license:
            return self.license
        owner, _, name = self.source.partition("/")
        known = owner in publishers and name and "/" not in name
        return published if known or Licence(published).noncommercial else UNKNOWN

    def _license_of_card(self) -> str:
        assert self.folder is not None
        card = self.folder / "README.md"
        if not card.is_file():
            return ""
        parts = card.read_text("utf-8", errors="replace").split("---", 2)
        try:
            head = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
        except yaml.YAMLError:
            head = None
        return licence_of_card(head, (), "").id if isinstance(head, dict) else ""

    def _license_of_text(self) -> str:
        assert self.folder is not None
        for path in sorted(self.folder.iterdir()):
            if path.is_file() and is_licence_text(path.name):
                with path.open("rb") as file:
                    found = licence_of_text(file.read(16_384).decode("utf-8", "replace"), path.name)
                if found is not None:
                    return found.id
        return ""

    def checksums(self) -> dict[str, str]:
        """SHA-256 of every file of the checkpoint, by its path in it."""
        if self.folder is None:
            return {}
        files = sorted(path for path in self.folder.rglob("*") if path.is_file() and ".git" not in path.parts)
        return {str(path.relative_to(self.folder)): _sha256(path) for path in files}


def open_checkpoint(
    family: str, source: str, *, called: str = "", revision: str = "", seed: int = 0
) -> Checkpoint:
    """source: random:small, random:config.json or a folder; called: what the folder is a copy of.

    Raises: ExportError.
    """
    if source.startswith(RANDOM):
        return Checkpoint(family, source, None, revision, seed)
    folder = Path(source).expanduser().resolve()
    if not folder.is_dir():
        raise ExportError(f"{source} is no folder; give one, random:small, or pull it first")
    return Checkpoint(family, called or source, folder, revision, seed)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
