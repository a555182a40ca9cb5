"""What the sections of `gateway.settings` are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode

T = TypeVar("T")


def _split(value: object) -> object:
    """A list in the environment: JSON, or text with commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [item.strip() for item in value.split(",") if item.strip()]


Listed = Annotated[tuple[T, ...], NoDecode, BeforeValidator(_split)]
"""A tuple that the environment may hold as JSON or as text with commas."""


def _stripped(value: object) -> object:
    match value:
        case SecretStr():
            return SecretStr(value.get_secret_value().strip())
        case tuple() if any(isinstance(one, SecretStr) for one in value):
            return tuple(map(_stripped, value))
        case dict():
            return {name: _stripped(one) for name, one in value.items()}
        case _:
            return value


class Part(BaseModel):
    """A section: unknown keys are refused, and around secrets stands no space: files made with an editor or `echo`
    end with a newline, which no key, password or URL has, and no header can carry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_path(cls, value: object, info: ValidationInfo) -> object:
        """An empty text is no path; as one it would be the folder that the process happens to be in."""
        field = cls.model_fields[info.field_name or ""]
        return None if value == "" and field.annotation == Path | None else value

    @field_validator("*")
    @classmethod
    def _strip_secrets(cls, value: object) -> object:
        return _stripped(value)
