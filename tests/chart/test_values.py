"""Every key of values.yaml changes something, is described, and is known to the schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from gateway.settings import Settings
from tests.chart.test_render import EVERYTHING, merged
from tests.support.chart import CHART, Object, Refused, render
from tests.support.cluster import need_tools

VALUES: Object = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: Object = json.loads((CHART / "values.schema.json").read_text())
Path = tuple[str, ...]

# Where a key matters: values beside it, by its beginning; the longest that fits counts.
_NIM = {"llm": {"mode": "nim"}}
_RIVA_NIM = {"riva": {"mode": "nim"}}
_EXTERNAL_LLM = {
    "llm": {"mode": "external", "model": "m", "external": {"baseUrl": "https://llm.example.com/v1", "existingSecret": "llm"}}
}  # fmt: skip
_EXTERNAL_RIVA = {
    "riva": {"mode": "external", "external": {"asrUri": "riva.example.com:443", "ttsUri": "riva.example.com:443"}}
}  # fmt: skip
_SEVERAL = {
    "gateway": {"replicas": 2},
    "speech": {"replicas": 2},
    "auth": {"jwt": {"issuer": "https://issuer.example.com"}},
}
_TLS = {"tls": {"enabled": True, "existingSecret": "tls"}}
_MANAGED = {"tls": {"enabled": True, "certManager": {"enabled": True, "issuerRef": {"name": "ca"}}}}
_VOLUME = {"speech": {"modelRepository": {"kind": "pvc"}}}
_SYNC = {"speech": {"modelRepository": {"kind": "sync", "source": "s3://bucket/models"}}}
_BALANCED = {"gateway": {"service": {"type": "LoadBalancer"}}}
CONTEXTS: dict[str, Object] = {
    "": _SEVERAL,
    "tls": _TLS,
    "tls.certManager": _MANAGED,
    "gateway.service": _BALANCED,
    "gateway.autoscaling": {"gateway": {"autoscaling": {"enabled": True}}},
    "speech.autoscaling": {"speech": {"autoscaling": {"enabled": True}}},
    "speech.triton.replicas": {"speech": {"topology": "shared"}},
    "speech.triton.gpu": {"speech": {"triton": {"gpu": {"count": 1}}}},
    "speech.triton.cudaPoolMb": {"speech": {"triton": {"gpu": {"count": 1}}}},
    "speech.triton.pinnedPoolMb": {"speech": {"triton": {"gpu": {"count": 1}}}},
    "speech.modelRepository": _VOLUME,
    "speech.modelRepository.source": _SYNC,
    "speech.modelRepository.credentialsSecret": _SYNC,
    "speech.modelRepository.region": _SYNC,
    "speech.modelRepository.cacheSize": _SYNC,
    "speech.engineCache": {"speech": {"engineCache": {"enabled": True}}},
    "llm.external": _EXTERNAL_LLM,
    "llm.nim": _NIM,
    "riva": _RIVA_NIM,
    "riva.external": _EXTERNAL_RIVA,
    "riva.server": {"riva": {"mode": "riva"}},
    "redis": {"redis": {"url": "redis://redis.example.com:6379/0"}},
    "redis.existingSecret": {},
    "redis.port": {"redis": {"existingSecret": "redis"}},
    "redis.existingSecretKey": {"redis": {"existingSecret": "redis"}},
    "monitoring": EVERYTHING,
    "networkPolicy": {
        **_EXTERNAL_RIVA,
        "telemetry": {"otlp": "http://otel:4318"},
        "redis": {"url": "redis://redis.example.com:6379/0"},
    },
    "networkPolicy.llm": _EXTERNAL_LLM,
    "networkPolicy.downloads": _NIM,
    "networkPolicy.speechClients": {},
    "ingress": EVERYTHING,
    "gatewayApi": EVERYTHING,
}

# What no rule below makes: another legal value.
OTHERS: dict[str, Any] = {
    "nameOverride": "other",
    "image.digest": "sha256:" + "ab" * 32,
    "auth.existingSecret": "own",  # with its partner, below
    "auth.existingHashesSecret": "own",
    "auth.trustedProxies": ["10.0.0.0/8"],
    "tls.existingSecret": "other",
    "tls.certManager.issuerRef.kind": "ClusterIssuer",
    "gateway.config": {"session": {"max_sessions": 7}},
    "gateway.policies": {"default": {"prefer_resident": True}},
    "gateway.strategy.type": "Recreate",
    "speech.config": {"models": {"ttl_s": 7}},
    "speech.strategy.type": "Recreate",
    "speech.voicePacks": {"morgan": "name: morgan"},
    "speech.preload": ["tts_other"],
    "speech.language": "de-DE",
    "speech.triton.shm.size": "2Gi",
    "speech.triton.extraArgs": ["--log-info=false"],
    "speech.modelRepository.source": "s3://other/models",
    "llm.external.baseUrl": "https://other.example.com/v1",
    "redis.url": "redis://other:6379/1",
    "telemetry.otlp": "http://collector:4318",
    "telemetry.sample": 0.5,
    "riva.external.asrUri": "other:50051",
    "riva.external.ttsUri": "other:50051",
}
_BY_LAST = {
    "digest": "sha256:" + "ab" * 32,
    "mig": "1g.10gb",
    "resource": "amd.com/gpu",
    "imagePullSecrets": [{"name": "other"}],
    "hostnames": ["other.example.com"],
    "dnsNames": ["other.example.com"],
    "loadBalancerSourceRanges": ["10.0.0.0/8"],
    "accessModes": ["ReadWriteMany"],
    "parentRefs": [{"name": "other"}],
    "extraEnv": [{"name": "OTHER", "value": "1"}],
    "extraVolumes": [{"name": "other", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "other", "mountPath": "/other"}],
    "tolerations": [{"key": "other", "operator": "Exists"}],
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
    "affinity": {"nodeAffinity": {}},
    "duration": "99h",
    "renewBefore": "98h",
    "interval": "99s",
    "drop": ["NET_RAW"],
}  # fmt: skip
# One key that cannot change by itself.
TOGETHER: dict[str, Object] = {
    "auth.existingSecret": {"auth": {"existingHashesSecret": "own-hashes"}},
    "auth.existingHashesSecret": {"auth": {"existingSecret": "own-keys"}},
    "tls.certManager.enabled": {"tls": {"existingSecret": "own"}},
    "speech.modelRepository.kind": {"speech": {"modelRepository": {"source": "s3://bucket/models"}}},
    "llm.mode": {"llm": {"model": "m", "external": {"baseUrl": "https://llm.example.com/v1"}}},
    "riva.mode": _EXTERNAL_RIVA,
}
# Values of Helm's free maps: what is in them is not ours.
_FREE = ("behavior", "podSecurityContext", "securityContext", "requests", "limits", "metrics")


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and value and path[-1:] not in [(one,) for one in _FREE]:
        for key, one in value.items():
            yield from leaves(one, (*path, key))
    else:
        yield path, value


LEAVES = {".".join(path): (path, value) for path, value in leaves(VALUES)}


def other(name: str, path: Path, value: Any) -> Any:
    """A legal value that differs."""
    if name in OTHERS:
        return OTHERS[name]
    allowed = _schema_of(path).get("enum")
    if allowed:
        return next(one for one in allowed if one != value)
    if path[-1] in _BY_LAST:
        return _BY_LAST[path[-1]]
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str() if value[:1].isdigit() and not name.endswith("tag"):
            return "9" + value
        case str():
            return "other"
        case list():
            return [{"podSelector": {}}] if path[0] == "networkPolicy" else ["other"]
    if path[-1] in ("requests", "limits"):
        return {**value, "memory": "99Gi"}
    if path[-1] == "metrics":
        return {**value, "parley_other": "1"}
    return {**value, "other": "other"}


def _schema_of(path: Path) -> Object:
    found = SCHEMA
    for key in path:
        found = found.get("properties", {}).get(key, {})
        if "$ref" in found:
            found = SCHEMA["$defs"][found["$ref"].rpartition("/")[2]]
    return found


def nested(path: Path, value: Any) -> Object:
    for key in reversed(path):
        value = {key: value}
    return dict(value)


def context_of(name: str) -> Object:
    fits = [one for one in CONTEXTS if not one or name == one or name.startswith(f"{one}.")]
    return CONTEXTS[max(fits, key=len)]


@pytest.mark.parametrize("part", sorted(VALUES))
def test_every_key_changes_something(part: str) -> None:
    need_tools()
    without_effect = []
    for name, (path, _) in LEAVES.items():
        if path[0] != part:
            continue
        around = merged(_SEVERAL, context_of(name))
        set_now = _at(around, path, LEAVES[name][1])
        change = nested(path, other(name, path, set_now))
        before = render("", around)
        try:
            after = render("", merged(around, TOGETHER.get(name, {}), change))
        except Refused as refused:
            raise AssertionError(f"{name}: {refused}") from None
        if name in TOGETHER and merged(around, TOGETHER[name]) != around:
            try:
                before = render("", merged(around, TOGETHER[name]))
            except Refused:
                pass  # the two only go together
        if before == after:
            without_effect.append(name)
    assert not without_effect


def _at(values: Object, path: Path, default: Any) -> Any:
    found: Any = values
    for key in path:
        if not isinstance(found, dict) or key not in found:
            return default
        found = found[key]
    return found


def test_the_schema_knows_the_keys_and_no_others() -> None:
    def keys(schema: Object, path: Path = ()) -> Iterator[str]:
        if "$ref" in schema:
            schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
        if schema.get("additionalProperties") is not False:
            yield ".".join(path)
            return
        for key, one in schema["properties"].items():
            yield from keys(one, (*path, key))

    optional = {"initialDelaySeconds", "successThreshold"}  # of probes
    known = {key for key in keys(SCHEMA) if key.rpartition(".")[2] not in optional} - {"global"}
    free = {name for name in known if isinstance(_at(VALUES, tuple(name.split(".")), None), dict)}
    ours = {name for name in LEAVES if not any(name.startswith(f"{one}.") for one in free)}
    settings = {name for name in known if name.startswith(("gateway.config.", "speech.config."))}
    assert known - free - settings - ours == set()
    assert ours - known - {name.rpartition(".")[0] for name in settings} == set()


def test_the_guide_names_keys_that_are_there() -> None:
    text = (CHART / "README.md").read_text()
    named = {
        tuple(one.split("."))
        for one in re.findall(r"`([a-z]\w*(?:\.\w+)+)`", text)
        if one.split(".")[0] in VALUES and not one.endswith((".crt", ".key"))
    }
    assert len(named) > 20
    for path in named:
        assert _at(VALUES, path, ...) is not ..., ".".join(path)


@pytest.mark.parametrize(
    "page", ["sizing", "upgrade", "troubleshooting", "install-gke", "install-eks", "install-bare-metal"]
)
def test_the_pages_name_keys_that_are_there(page: str) -> None:
    """Values of the chart, or settings."""
    text = (CHART.parents[1] / "docs" / "guides" / f"{page}.md").read_text()
    words = re.findall(r"(?<=[`\s])([a-z]\w*(?:\.\w+)+)(?=[`=:\s])", text)
    named = {one for one in words if one.split(".")[0] in VALUES.keys() | {"session", "echo", "models"}}
    assert named
    for one in named:
        part, _, key = one.rpartition(".")
        setting = getattr(getattr(Settings(), part, None), key, ...)
        if one.startswith(("gateway.config.", "speech.config.")):
            setting = getattr(getattr(Settings(), one.split(".")[2]), key)
        assert setting is not ... or _at(VALUES, tuple(one.split(".")), ...) is not ..., one


def test_every_key_is_described() -> None:
    """A comment above it, above its section's first key, or a name that says it in a section that is described."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    bare = [
        number
        for number, line in enumerate(lines[1:], 1)
        if line and not line.startswith((" ", "#")) and not lines[number - 1].startswith("#")
    ]
    self_told = {"llm", "telemetry", "monitoring", "networkPolicy", "ingress", "redis"}
    assert {lines[number].split(":")[0] for number in bare} <= self_told
