"""Strict JSON schemas for kubeconform, from Kubernetes' OpenAPI description and from custom resource definitions.

kubeconform's own schemas come from a network; these come from the modules that the API server is built of, and
refuse keys that the API does not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]

_KEPT = ("type", "enum", "required", "minimum", "maximum", "pattern", "maxLength", "minLength")
_LOOSE = ("util.intstr.IntOrString", "resource.Quantity")
"""Described as strings; the API takes numbers too."""


def write_schemas(swagger: Path, crds: Sequence[Path], out: Path) -> int:
    """One file a kind and version, named as kubeconform looks for them; returns how many."""
    out.mkdir(parents=True)
    definitions = json.loads(swagger.read_text())["definitions"]
    strict = {name: _strict(schema) for name, schema in definitions.items()}
    count = 0
    for name, schema in definitions.items():
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            if "apiVersion" in schema.get("properties", {}):
                inside = {one: strict[one] for one in sorted(_reached(name, strict))}
                _write(out, kind["group"], kind["version"], kind["kind"], strict[name], inside)
                count += 1
    for crd in crds:
        for document in yaml.load_all(crd.read_text(), yaml.CSafeLoader):
            spec = document["spec"]
            for version in spec["versions"]:
                top = _strict(version["schema"]["openAPIV3Schema"])
                top["properties"]["metadata"] = {"type": "object"}
                _write(out, spec["group"], version["name"], spec["names"]["kind"], top, {})
                count += 1
    return count


def _write(out: Path, group: str, version: str, kind: str, top: Schema, definitions: Schema) -> None:
    api_version = f"{group}/{version}" if group else version
    whole = {
        **top,
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": definitions,
        "required": sorted({*top.get("required", ()), "kind", "apiVersion"}),
        "properties": {
            **top["properties"],
            "kind": {"type": "string", "enum": [kind]},
            "apiVersion": {"type": "string", "enum": [api_version]},
        },
    }
    suffix = "-".join(part for part in (group.partition(".")[0], version) if part)
    (out / f"{kind.lower()}-{suffix}.json").write_text(json.dumps(whole, separators=(",", ":")))


def _strict(schema: Schema, *, required: bool = True) -> Schema:
    """The same, refusing unknown keys; an optional key may be null, as `helm template` writes some."""
    if "$ref" in schema:
        return _reference(schema["$ref"].rpartition("/")[2], required)
    made: Schema = {key: schema[key] for key in _KEPT if key in schema}
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        made["type"] = ["string", "integer"]
    elif not required and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    if "properties" in schema:
        needed = set(schema.get("required", ()))
        made["properties"] = {
            key: _strict(value, required=key in needed) for key, value in schema["properties"].items()
        }
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = _strict(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        made["items"] = _strict(schema["items"])
    return made


def _reference(name: str, required: bool) -> Schema:
    if name.endswith(_LOOSE):
        return {"type": ["string", "integer", "number", *([] if required else ["null"])]}
    reference = {"$ref": f"#/definitions/{name}"}
    return reference if required else {"anyOf": [reference, {"type": "null"}]}


def _reached(name: str, schemas: dict[str, Schema]) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting.extend(_references(schemas.get(one, {})))
    return found & schemas.keys()


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref" and isinstance(inner, str):
                yield inner.rpartition("/")[2]
            else:
                yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)
