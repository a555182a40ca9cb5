"""Which values of the settings nobody may see."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr


def secrets_of(settings: BaseModel) -> list[str]:
    """Every secret that is set, whatever its section; of a URL also its password alone."""
    return [one for name in type(settings).model_fields for one in _secrets_in(getattr(settings, name))]


def _secrets_in(value: object) -> list[str]:
    match value:
        case SecretStr():
            text = value.get_secret_value()
            password = urlsplit(text).password if "://" in text else None
            return [one for one in (text, password) if one]
        case BaseModel():
            return secrets_of(value)
        case dict():
            return [one for each in value.values() for one in _secrets_in(each)]
        case tuple():
            return [one for each in value for one in _secrets_in(each)]
        case _:
            return []
