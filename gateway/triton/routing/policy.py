"""Routing policies: what an operator prefers and demands of models, read once from a YAML file."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from gateway.triton.errors import TritonError
from gateway.triton.model_info import ModelInfo
from gateway.triton.routing.languages import base_language, same_tag

DEFAULT = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*|\*")


class PolicyError(TritonError):
    """A policy file that cannot be used, or a policy that does not exist. `str()` says where and what to do."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What one session's models are chosen by; without a file, these defaults."""

    name: str = DEFAULT
    prefer_tags: tuple[str, ...] = ()
    """Tags or conditions; the first weighs most."""
    require: tuple[str, ...] = ()
    """Tags or conditions; a model without one of them is out."""
    prefer_resident: bool = True
    """A model that is loaded comes before one that has to be loaded first."""
    fallbacks: tuple[Policy | str, ...] = ()
    """Policies, or models by name, for when nothing else fits; in order. A model named here need not fulfil `require`."""
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Models to be taken first, by language; "*" is any."""

    def pins(self, language: str) -> tuple[str, ...]:
        """Models pinned for a language: of its region, else of the language, else of any."""
        for fits in (
            lambda tag: bool(language) and same_tag(tag, language),
            lambda tag: bool(language) and same_tag(tag, base_language(language)),
            lambda tag: tag == "*",
        ):
            for tag, names in self.models.items():
                if fits(tag):
                    return names
        return ()


def _can_reference(info: ModelInfo) -> bool:
    return "REFERENCE_AUDIO" in info.inputs and "zero-shot" in info.tags


CONDITIONS: Mapping[str, Callable[[ModelInfo], bool]] = {
    "cpu_ok": lambda info: not info.needs_gpu or "cpu_ok" in info.tags,
    "gpu": lambda info: info.needs_gpu,
    "streaming": lambda info: info.streaming,
    "zero_shot": _can_reference,
}
"""What `require` and `prefer_tags` know beside the tags that models give themselves."""


def has(info: ModelInfo, word: str) -> bool:
    """Whether a model fulfils a condition, or has a tag of that name."""
    condition = CONDITIONS.get(word)
    return condition(info) if condition is not None else word in info.tags


class Policies:
    """The policies of a file, by name; `default` is always there."""

    def __init__(self, policies: Iterable[Policy] = (), *, source: str = "") -> None:
        self._source = source
        self._policies = {DEFAULT: Policy()} | {policy.name: policy for policy in policies}

    @property
    def names(self) -> list[str]:
        return list(self._policies)

    def get(self, name: str = "") -> Policy:
        """ "": the default. Raises: PolicyError."""
        policy = self._policies.get(name or DEFAULT)
        if policy is None:
            raise PolicyError(f"no routing policy {name}: there is {', '.join(self._policies)}")
        return policy

    def check(self, models: Iterable[ModelInfo]) -> list[str]:
        """One sentence for each required tag that no model has: such a policy falls back at once.

        Raises: PolicyError when a policy names a model that is not there.
        """
        known = {info.name: info for info in models}
        doubts = []
        for policy in self._policies.values():
            where = f"{self._source}: {policy.name}"
            named = [("fallbacks", name) for name in policy.fallbacks if isinstance(name, str)]
            named += [(f"models.{tag}", name) for tag, names in policy.models.items() for name in names]
            for key, name in named:
                if name not in known:
                    what = "no model" if key != "fallbacks" else "neither a model nor a policy"
                    there = ", ".join(sorted(known)) or "no model at all"
                    raise PolicyError(f"{where}.{key}: {name} is {what}: there is {there}")
            doubts += [
                f"{where}.require: no model has {word}, so this policy only ever falls back"
                for word in policy.require
                if not any(has(info, word) for info in known.values())
            ]
        return doubts


def read_policies(path: Path | None) -> Policies:
    """The policies of a YAML file; None: only the default. Blocks for the read: once, at start.

    Raises: PolicyError naming the file, the key and what is wrong.
    """
    if path is None:
        return Policies()
    try:
        raw = yaml.load(path.read_text("utf-8"), _Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise PolicyError(f"{path}{line}: this is no YAML: {error.problem}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise PolicyError(f"the routing policies cannot be read from {path}: {why}") from None
    if not isinstance(raw, dict):
        raise PolicyError(f"{path}: a mapping of policies by name is needed, such as default: {{}}")
    for name in raw:
        if not _NAME.fullmatch(name):
            raise PolicyError(
                f"{path}: {name!r} is no name for a policy: use letters, digits, '_', '-' and '.'"
            )
    try:
        rules = _FILE.validate_python(raw)
    except ValidationError as error:
        raise PolicyError("; ".join(f"{path}: {_sentence(e)}" for e in error.errors())) from None
    return Policies(_resolve(rules, str(path)), source=str(path))


class _Loader(yaml.BaseLoader):
    """Everything plain is a string, so that the language `no` is not False; a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _words(value: Any) -> Any:
    if not isinstance(value, list) or any(not isinstance(word, str) for word in value):
        raise ValueError("a list is needed, such as [one, two]")
    for word in value:
        if not _NAME.fullmatch(word):
            raise ValueError(f"{word!r} is no name: use letters, digits, '_', '-' and '.'")
    return value


def _pinned(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("a mapping of languages to models is needed, such as {de: tts_de}")
    for tag in value:
        if not _LANGUAGE.fullmatch(tag):
            raise ValueError(f"{tag!r} is no language: use tags such as de, de-CH, or * for any")
    return {tag: [names] if isinstance(names, str) else names for tag, names in value.items()}


def _yes_or_no(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError("true or false is needed")


def _mapping(value: Any) -> Any:
    return {} if value == "" else value


_Words = Annotated[tuple[str, ...], BeforeValidator(_words)]


class _Rules(BaseModel):
    """One policy as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefer_tags: _Words = ()
    require: _Words = ()
    prefer_resident: Annotated[bool, BeforeValidator(_yes_or_no)] = True
    fallbacks: _Words = ()
    models: Annotated[dict[str, _Words], BeforeValidator(_pinned)] = {}


_FILE = TypeAdapter(dict[str, Annotated[_Rules, BeforeValidator(_mapping)]])


def _sentence(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key} is not known: there is {', '.join(_Rules.model_fields)}"
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"{key}: a mapping is needed, such as {{require: [cpu_ok]}}"
    return f"{key}: {str(error['msg']).removeprefix('Value error, ')}"


def _resolve(rules: dict[str, _Rules], source: str) -> list[Policy]:
    """Fallbacks by name become policies where one has that name. Raises: PolicyError for a circle."""
    made: dict[str, Policy] = {}
    if DEFAULT not in rules:
        made[DEFAULT] = Policy()

    def make(name: str, road: tuple[str, ...]) -> Policy:
        if name in road:
            circle = " → ".join([*road[road.index(name) :], name])
            raise PolicyError(
                f"{source}: {road[-1]}.fallbacks: these policies fall back in a circle: {circle}"
            )
        if name not in made:
            own = rules[name]
            made[name] = Policy(
                name,
                own.prefer_tags,
                own.require,
                own.prefer_resident,
                tuple(
                    make(other, (*road, name)) if other in rules or other == DEFAULT else other
                    for other in own.fallbacks
                ),
                own.models,
            )
        return made[name]

    return [make(name, ()) for name in rules]
