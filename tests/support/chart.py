"""The chart as helm renders it: objects to look at, and what helm says when it refuses values."""

from __future__ import annotations

import functools
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.cluster import tool

CHART = Path(__file__).parents[2] / "helm/parley"
PROFILES = tuple(sorted(one.stem.removeprefix("values-") for one in CHART.glob("values-*.yaml")))
POD_KINDS = ("Deployment", "StatefulSet", "Job", "Pod")

Object = dict[str, Any]


class Refused(Exception):
    """What helm said in place of objects."""


def render(profile: str = "", values: Object | None = None, *, release: str = "parley") -> list[Object]:
    """All objects, hooks included, as `helm template` makes them in the namespace `voice`. Raises: Refused."""
    return [dict(one) for one in _render(profile, json.dumps(values or {}), release)]


@functools.lru_cache(maxsize=256)
def _render(profile: str, values: str, release: str) -> tuple[Object, ...]:
    return tuple(one for one in yaml.load_all(template(profile, values, release), _Loader) if one)


def template(profile: str, values: str = "{}", release: str = "parley") -> str:
    """The text itself. values: JSON."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(values)
        file.flush()
        given = ["-f", str(CHART / f"values-{profile}.yaml")] if profile else []
        done = subprocess.run(
            [tool("helm"), "template", release, str(CHART), "-n", "voice", *given, "-f", file.name],
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def one_of(objects: list[Object], kind: str, name: str) -> Object:
    """The object of this kind and name."""
    found = [one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name]
    assert len(found) == 1, (
        f"{len(found)} of {kind} {name} among {sorted((o['kind'], o['metadata']['name']) for o in objects)}"
    )
    return found[0]


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """What each pod is of, and its spec."""
    for one in objects:
        if one["kind"] in POD_KINDS:
            spec = one["spec"] if one["kind"] == "Pod" else one["spec"]["template"]["spec"]
            yield f"{one['kind']}/{one['metadata']['name']}", spec


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", ()), *spec["containers"]]
