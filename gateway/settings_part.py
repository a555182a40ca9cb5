"""What the sections of `gateway.settings` are made of."""

from __future__ import annotations

import json
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict
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


class Part(BaseModel):
    """A section: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
