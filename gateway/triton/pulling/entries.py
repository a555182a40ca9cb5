"""`catalogue.yaml`: real checkpoints by name, with what is known of each, and pairs that fit together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from gateway.triton.exported.families import FAMILIES
from gateway.triton.pulling.errors import CatalogueError
from gateway.triton.pulling.licences import Licence

FILE = "catalogue.yaml"
OTHERS = ("cosyvoice2", "xtts", "csm", "parler", "melo", "spark")
"""Families that come with code of their own."""
_MAX_BYTES = 1 << 20

Text = Annotated[str, StringConstraints(strict=True, strip_whitespace=True, min_length=1)]
Sha256 = Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(strict=True, pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(_Strict):
    """One checkpoint. What is not known is left out."""

    family: Text
    kind: Literal["asr", "tts", "codec"]
    source: Text
    """hf:owner/name, an http(s) URL, or package:NAME==VERSION."""
    revision: Text = "main"
    """Of a hub's repository."""
    licence: Text
    """SPDX, or LicenseRef-…"""
    noncommercial: bool = False
    """Where the licence's name does not show it."""
    files: tuple[Text, ...] = ()
    """Names or patterns (`*`) of what is needed; none: by Parley's own rule."""
    parts: dict[Name, Text] = {}
    """Further sources that belong to it, each into a folder of this name, which the export gets as its option."""
    sha256: dict[Text, Sha256] = {}
    """Of files, by their path."""
    size_mb: float | None = Field(None, gt=0)
    """Of what is downloaded, about; 10^6 bytes."""
    memory_mb: int | None = Field(None, gt=0)
    rate: int | None = Field(None, ge=8_000, le=48_000)
    """Hz of the audio that it hears or makes."""
    languages: tuple[Text, ...] = ()
    """BCP-47."""
    gpu: bool = False
    """It is of no use without one."""
    gated: bool = False
    """The hub wants an account that accepted its terms: HF_TOKEN."""
    options: dict[Text, Text] = {}
    """`--option` of the export."""
    tested: bool = False
    """Whether anybody pulled, exported and heard it with Parley."""
    note: str = ""

    @field_validator("family")
    @classmethod
    def _is_known(cls, family: str) -> str:
        if family not in (*FAMILIES, *OTHERS):
            raise ValueError(f"{family} is no family; known: {', '.join((*FAMILIES, *OTHERS))}")
        return family

    def licence_of(self) -> Licence:
        return Licence(self.licence, "as the catalogue says", self.noncommercial)


class Pair(_Strict):
    """A recogniser and a voice that fit together: names of entries."""

    asr: Name
    tts: Name | None = None
    """None: the built-in one."""
    note: str = ""


class Entries(_Strict):
    """A whole file."""

    models: dict[Name, Entry] = {}
    pairs: dict[Name, Pair] = {}

    @model_validator(mode="after")
    def _pairs_name_entries(self) -> Entries:
        for name, pair in self.pairs.items():
            for kind, named in (("asr", pair.asr), ("tts", pair.tts)):
                if named is None:
                    continue
                entry = self.models.get(named)
                if entry is None:
                    raise ValueError(f"pairs.{name}.{kind}: there is no model {named}")
                if entry.kind != kind:
                    raise ValueError(f"pairs.{name}.{kind}: {named} is of kind {entry.kind}")
        return self


@dataclass(frozen=True, slots=True)
class Shelf:
    """All catalogue files together; of two entries of one name the first file's counts."""

    models: dict[str, Entry] = field(default_factory=dict)
    pairs: dict[str, Pair] = field(default_factory=dict)

    def entry(self, name: str) -> Entry:
        """Raises: CatalogueError, naming what there is."""
        if name not in self.models:
            raise CatalogueError(f"no catalogue names {name}; `parley models catalogue` lists what there is")
        return self.models[name]

    def pair(self, name: str) -> Pair:
        """Raises: CatalogueError."""
        if name not in self.pairs:
            known = ", ".join(sorted(self.pairs)) or "none"
            raise CatalogueError(f"no catalogue has a pair of models called {name}; there is: {known}")
        return self.pairs[name]


def load_shelf(files: Iterable[Path]) -> Shelf:
    """Raises: CatalogueError."""
    models: dict[str, Entry] = {}
    pairs: dict[str, Pair] = {}
    for file in files:
        found = load_entries(file)
        models = {**found.models, **models}
        pairs = {**found.pairs, **pairs}
    return Shelf(models, pairs)


def load_entries(file: Path) -> Entries:
    """Raises: CatalogueError with the file, the place in it and what is wrong there."""
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise CatalogueError(f"{file} is longer than any catalogue")
        told = yaml.load(file.read_text("utf-8"), _Loader)  # a SafeLoader
    except OSError as error:
        raise CatalogueError(
            f"the catalogue {file} cannot be read: {(error.strerror or str(error)).lower()}"
        ) from None
    except UnicodeDecodeError:
        raise CatalogueError(f"the catalogue {file} is not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise CatalogueError(f"{file}{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise CatalogueError(f"{file} is no YAML: {error}") from None
    try:
        return Entries.model_validate(told or {})
    except ValidationError as error:
        wrong = "; ".join(_sentence(one) for one in error.errors(include_url=False)[:3])
        raise CatalogueError(f"{file}: {wrong}") from None


def _sentence(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"] if part != "[key]")
    said = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {said[0].lower()}{said[1:]}" if place else said


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice: YAML's own reader takes the last and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)
