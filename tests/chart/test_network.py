"""NetworkPolicies: what the chart's own settings make the parts use is open both ways, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.chart.test_render import VARIANTS
from tests.support.chart import Object, one_of, pods, render
from tests.support.cluster import need_tools

Labels = dict[str, str]
Rule = dict[str, Any]

STRANGER: Labels = {"app": "stranger"}
MONITORING = "monitoring"


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    need_tools()


def _labels(objects: list[Object]) -> dict[str, Labels]:
    found = {}
    for one in objects:
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            found[one["metadata"]["name"]] = one["spec"]["template"]["metadata"]["labels"]
        elif one["kind"] == "Pod":
            found[one["metadata"]["name"]] = one["metadata"]["labels"]
        elif one["kind"] == "NIMService":  # as the NIM operator labels them
            found[one["metadata"]["name"]] = {"app": one["metadata"]["name"]}
    return found


def _selects(selector: Object, labels: Labels) -> bool:
    assert selector.keys() <= {"matchLabels"}
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def _fits(rule: Rule, side: str, other: Labels, namespace: str, port: int) -> bool:
    if rule.get("ports") and port not in [one["port"] for one in rule["ports"]]:
        return False
    if side not in rule:
        return True
    for peer in rule[side]:
        if "namespaceSelector" in peer:
            if peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == namespace:
                return True
        elif namespace == "voice" and _selects(peer["podSelector"], other):
            return True
    return False


def _side(objects: list[Object], way: str, own: Labels, other: Labels, namespace: str, port: int) -> bool:
    """Whether the policies of a pod let it be called (Ingress), or call (Egress)."""
    policies = [one["spec"] for one in objects if one["kind"] == "NetworkPolicy"]
    binding = [one for one in policies if _selects(one["podSelector"], own) and way in one["policyTypes"]]
    rules = [rule for one in binding for rule in one.get(way.lower()) or ()]
    side = {"Ingress": "from", "Egress": "to"}[way]
    return not binding or any(_fits(rule, side, other, namespace, port) for rule in rules)


def reaches(
    objects: list[Object], source: Labels, target: Labels, port: int, namespace: str = "voice"
) -> bool:
    """namespace: of the source."""
    out = namespace != "voice" or _side(objects, "Egress", source, target, "voice", port)
    return out and _side(objects, "Ingress", target, source, namespace, port)


def _addresses(settings: Any) -> Iterator[tuple[str, int]]:
    """(host, port) of all that a process calls, as its settings say."""
    for section, key in (("asr", "uri"), ("tts", "uri"), ("triton", "uri"), ("triton", "metrics")):
        uri = settings.get(section, {}).get(key, "").removeprefix("dns:///")
        if uri:
            host, _, port = uri.rpartition(":")
            yield host, int(port)
    url = settings.get("llm", {}).get("base_url")
    if url:
        parts = urlsplit(url)
        yield parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]


def _settings(objects: list[Object], name: str) -> Object:
    return dict(yaml.safe_load(one_of(objects, "ConfigMap", name)["data"]["config.yaml"]))


@pytest.fixture(params=VARIANTS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return render(*VARIANTS[request.param])


def test_every_pod_is_closed_both_ways_but_for_what_is_named(objects: list[Object]) -> None:
    labels = _labels(objects)
    assert labels.keys() >= {name.split("/")[1] for name, _ in pods(objects)}
    for name, own in labels.items():
        for way in ("Ingress", "Egress"):
            assert not _side(objects, way, own, STRANGER, "elsewhere", 9), f"{name} is open to any port"


def test_parts_reach_what_their_settings_name(objects: list[Object]) -> None:
    labels = _labels(objects)
    seen = 0
    for name in ("parley-gateway", "parley-speech"):
        if name not in labels:
            continue
        for host, port in _addresses(_settings(objects, name)):
            if host == "127.0.0.1":
                continue
            seen += 1
            ours = re.fullmatch(
                r"(parley-[a-z]+(?:-asr|-tts)?)(-headless)?\.voice\.svc\.cluster\.local", host
            )
            if ours:
                assert reaches(objects, labels[name], labels[ours[1]], port), (name, host, port)
            else:
                assert _side(objects, "Egress", labels[name], {}, "elsewhere", port), (name, host, port)
    assert seen


def test_nobody_else_reaches_the_inner_parts(objects: list[Object]) -> None:
    labels = _labels(objects)
    for name, own in labels.items():
        for port in (8000, 8001, 8002, 8081, 8082, 8090, 9000, 50051):
            assert not reaches(objects, STRANGER, own, port), (name, port)
            assert not reaches(objects, STRANGER, own, port, "elsewhere"), (name, port)
        if "parley-test" in labels and name != "parley-gateway":
            assert not reaches(objects, labels["parley-test"], own, 50051), name
        # What is behind never calls what is before it.
        if name not in ("parley-gateway", "parley-test"):
            assert not reaches(objects, own, labels["parley-gateway"], 50050), name


def test_callers_and_the_test_reach_the_gateway(objects: list[Object]) -> None:
    labels = _labels(objects)
    for port in (50050, 8080):
        assert reaches(objects, STRANGER, labels["parley-gateway"], port, "elsewhere")
    assert reaches(objects, labels["parley-test"], labels["parley-gateway"], 50050)


def test_prometheus_reaches_metrics_and_nothing_else(objects: list[Object]) -> None:
    labels = _labels(objects)
    wanted = {"parley-gateway": {8081}}
    if "parley-speech" in labels:
        wanted["parley-speech"] = {8082} if "parley-triton" in labels else {8082, 8002}
    elif any(one["metadata"]["name"] == "parley-speech" for one in objects):  # beside the gateway
        wanted["parley-gateway"] |= {8082, 8002}
    for name, ports in wanted.items():
        inner = {8000, 8001, 8002, 8081, 8082, 8090, 50051}
        assert {
            port for port in inner if reaches(objects, STRANGER, labels[name], port, MONITORING)
        } == ports, name


def test_narrowed_clients_shut_out_everybody_else() -> None:
    values: Object = {"networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"app": "agent"}}}]}}
    objects = render("cpu", values)
    labels = _labels(objects)
    assert reaches(objects, {"app": "agent"}, labels["parley-gateway"], 50050)
    assert reaches(objects, labels["parley-test"], labels["parley-gateway"], 50050)
    assert not reaches(objects, STRANGER, labels["parley-gateway"], 50050)


def test_a_certificate_is_good_for_every_name_that_is_asked_for() -> None:
    objects = render("production", {"tls": {"triton": True}})
    (certificate,) = [one for one in objects if one["kind"] == "Certificate"]
    names = set(certificate["spec"]["dnsNames"])
    asked = set()
    for name in ("parley-gateway", "parley-speech"):
        for section in _settings(objects, name).values():
            if isinstance(section, dict) and "name" in section.get("tls", {}):
                asked.add(section["tls"]["name"])
    (test,) = [spec for name, spec in pods(objects) if name == "Pod/parley-test"]
    (server,) = [one for one in test["containers"][0]["command"] if one.startswith("--server=")]
    asked.add(server.removeprefix("--server=").rpartition(":")[0])
    assert len(asked) >= 3
    assert asked <= names
    assert "localhost" in names, "port-forward"
