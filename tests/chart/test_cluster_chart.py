"""The chart on a real API server: every profile's whole life, and what the cluster makes of its objects.

Nodes and pods are simulated: a pod that is admitted and has room becomes Ready. What runs in them is
tests/stack/test_chart_runs.py's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cluster import Cluster
from tests.support.kube_api import Api, ApiError, Object

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

CHART = Path(__file__).parents[2] / "helm" / "parley"
PROFILES = ("cpu", "gpu", "riva", "nim", "production")
KEPT = {
    "cpu": set(),
    "gpu": {"PersistentVolumeClaim/parley-engines"},
    "riva": set(),
    "nim": {"PersistentVolumeClaim/parley-riva-asr", "PersistentVolumeClaim/parley-riva-tts"},
    "production": {"PersistentVolumeClaim/parley-engines"},
}
"""What `helm uninstall` leaves, beside the Secrets of keys: volumes that took long to fill."""
_EVERYBODYS = {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default"}
_BY_HAND = ("parley-api-keys", "parley-key-hashes", "parley-llm", "parley-redis", "ngc-secret", "ngc-api-secret", "parley-tls")  # fmt: skip


def _profile(name: str) -> list[str]:
    return ["-f", str(CHART / f"values-{name}.yaml")]


def _prepare(cluster: Cluster, namespace: str) -> None:
    """What the profiles' first lines ask for, and what the simulated key Job cannot make."""
    for name in _BY_HAND:
        secret = {"apiVersion": "v1", "kind": "Secret", "stringData": {"keys.yaml": "keys: []"}}
        cluster.run(cluster.api.create({**secret, "metadata": {"name": name, "namespace": namespace}}))
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    meta = {"name": "riva-models", "namespace": namespace}
    cluster.run(
        cluster.api.create(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": claim}
        )
    )


def _objects(cluster: Cluster, namespace: str) -> list[Object]:
    text = cluster.helm("get", "manifest", "parley", "-n", namespace)
    return [one for one in yaml.load_all(text, yaml.CSafeLoader) if one]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_lives_a_whole_life(cluster: Cluster, namespace: str, profile: str) -> None:
    run, api = cluster.run, cluster.api
    _prepare(cluster, namespace)
    before = run(_all(api, namespace))
    here = ["-n", namespace, "--timeout", "20s"]
    cluster.helm("install", "parley", str(CHART), *_profile(profile), *here, "--wait")
    objects = _objects(cluster, namespace)
    for one in objects:
        run(api.apply(one, dryRun="All"))  # validated by the server, unknown fields refused
    _check_scaling(objects)
    first = run(_images(api, namespace))
    assert first
    assert all(_runs(pod) for pod in run(api.list(f"/api/v1/namespaces/{namespace}/pods")))

    cluster.helm("test", "parley", "-n", namespace, "--timeout", "30s")
    cluster.helm(
        "upgrade",
        "parley",
        str(CHART),
        *_profile(profile),
        *here,
        "--set",
        "image.tag=other",
        "--disable-openapi-validation",
    )
    assert any(image.endswith("parley:other") for image in run(_images(api, namespace)))
    cluster.helm("rollback", "parley", "1", *here)
    assert run(_images(api, namespace)) == first
    cluster.helm("uninstall", "parley", *here, "--wait")
    left = {f"{kind}/{name}" for kind, name in run(_all(api, namespace)) - before}
    # helm keeps the pod of a test for its log; it goes with the namespace.
    assert left - {"Pod/parley-test"} == KEPT[profile]


def test_without_room_for_its_gpu_a_pod_waits_and_says_so(cluster: Cluster, namespace: str) -> None:
    run, api = cluster.run, cluster.api
    _prepare(cluster, namespace)
    cluster.helm(
        "install", "parley", str(CHART), *_profile("gpu"), "-n", namespace, "--set", "speech.replicas=3"
    )
    label = "app.kubernetes.io/component=speech"

    def settled(pods: dict[str, Object]) -> bool:
        return (
            len(pods) == 3 and sum(map(_runs, pods.values())) == 2 and any(map(_why_pending, pods.values()))
        )

    pods = run(api.until(f"/api/v1/namespaces/{namespace}/pods", settled, labelSelector=label))
    (waiting,) = [pod for pod in pods.values() if not _runs(pod)]
    assert "Insufficient nvidia.com/gpu" in _why_pending(waiting)


def test_a_budget_lets_one_pod_go_at_a_time_and_a_single_replica_has_none(
    cluster: Cluster, namespace: str
) -> None:
    run, api = cluster.run, cluster.api
    _prepare(cluster, namespace)
    here = ["-n", namespace, "--wait", "--timeout", "20s"]
    cluster.helm("install", "parley", str(CHART), *_profile("cpu"), *here)
    budgets = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
    assert run(api.list(budgets)) == [], "a budget over one replica would keep a node from being drained"
    pods = f"/api/v1/namespaces/{namespace}/pods"
    gateways = {"labelSelector": "app.kubernetes.io/component=gateway"}
    (alone,) = run(api.list(pods, **gateways))
    run(_evict(api, alone))

    cluster.helm("upgrade", "parley", str(CHART), *_profile("cpu"), *here, "--set", "gateway.replicas=2")
    allowed = lambda found: found["parley-gateway"].get("status", {}).get("disruptionsAllowed") == 1  # noqa: E731
    run(api.until(budgets, allowed))
    one, two = [
        pod for pod in run(api.list(pods, **gateways)) if not pod["metadata"].get("deletionTimestamp")
    ]
    cluster.cordon()  # so that what replaces the first cannot start meanwhile
    try:
        run(_evict(api, one))
        with pytest.raises(ApiError, match="violate the pod's disruption budget") as refused:
            run(_evict(api, two))
        assert refused.value.status == 429
    finally:
        cluster.cordon(off=True)
    run(api.until(budgets, allowed))
    run(_evict(api, two))


def test_pods_have_no_rights_and_the_key_job_no_more_than_it_needs(cluster: Cluster, namespace: str) -> None:
    run, api = cluster.run, cluster.api
    text = cluster.helm("template", "parley", str(CHART), *_profile("cpu"), "-n", namespace)
    objects = [one for one in yaml.load_all(text, yaml.CSafeLoader) if one]
    accounts = [one["metadata"]["name"] for one in objects if one["kind"] == "ServiceAccount"]
    assert set(accounts) >= {"parley-gateway", "parley-speech", "parley-keys"}
    for one in objects:
        if one["kind"] in ("ServiceAccount", "Role", "RoleBinding"):
            run(api.create(one))
        assert one["kind"] not in ("ClusterRole", "ClusterRoleBinding"), "nothing of Parley's is cluster-wide"
    nothing = run(_rights(api, namespace, "default"))
    for account in accounts:
        more = run(_rights(api, namespace, account)) - nothing
        if account != "parley-keys":
            assert not more, f"{account} may {more}"
    needed = {("create", "secrets", "")}
    needed |= {("get", "secrets", name) for name in ("parley-api-keys", "parley-key-hashes")}
    assert run(_rights(api, namespace, "parley-keys")) - nothing == needed
    run(_tries(api, namespace))


async def _tries(api: Api, namespace: str) -> None:
    """The same, done in place of asked."""
    path = f"/api/v1/namespaces/{namespace}/secrets"
    job = api.as_service_account(namespace, "parley-keys")
    try:
        for name in ("parley-api-keys", "another"):
            meta = {"name": name, "namespace": namespace}
            await job.request("POST", path, {"apiVersion": "v1", "kind": "Secret", "metadata": meta})
        await job.get(f"{path}/parley-api-keys")
        forbidden: list[tuple[str, str]] = [
            ("GET", f"{path}/another"),
            ("GET", path),
            ("DELETE", f"{path}/parley-api-keys"),
            ("GET", f"/api/v1/namespaces/{namespace}/pods"),
            ("GET", "/api/v1/namespaces/default/secrets"),
        ]
        for method, where in forbidden:
            with pytest.raises(ApiError, match="is forbidden"):
                await job.request(method, where)
        with pytest.raises(ApiError, match="is forbidden"):
            await job.patch(f"{path}/parley-api-keys", {"stringData": {"api-key": "mine"}})
    finally:
        await job.close()


async def _rights(api: Api, namespace: str, account: str) -> set[tuple[str, str, str]]:
    """(verb, resource, name) of everything that a service account may do in its namespace, as the server says."""
    them = api.as_service_account(namespace, account)
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    try:
        path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
        status = (await them.request("POST", path, review))["status"]
    finally:
        await them.close()
    assert not status.get("incomplete")
    return {
        triple
        for rule in status["resourceRules"]
        for triple in itertools.product(rule["verbs"], rule["resources"], rule.get("resourceNames") or [""])
    }


async def _all(api: Api, namespace: str) -> set[tuple[str, str]]:
    """(kind, name) of every object in a namespace that somebody made, whatever its kind."""
    found: set[tuple[str, str]] = set()
    groups = (await api.get("/apis"))["groups"]
    bases = ["/api/v1", *(f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups)]
    for base in bases:
        for kind in (await api.get(base))["resources"]:
            if (
                kind["namespaced"]
                and "list" in kind["verbs"]
                and "create" in kind["verbs"]
                and kind["kind"] != "Event"
            ):
                for one in await api.list(f"{base}/namespaces/{namespace}/{kind['name']}"):
                    meta = one["metadata"]
                    if not meta.get("ownerReferences") and not meta.get("deletionTimestamp"):
                        found.add((kind["kind"], meta["name"]))
    return {pair for pair in found if "/".join(pair) not in _EVERYBODYS}


async def _images(api: Api, namespace: str) -> set[str]:
    """Of everything that is deployed, as its controller has it."""
    path = f"/apis/apps/v1/namespaces/{namespace}"
    return {
        container["image"]
        for kind in ("deployments", "statefulsets")
        for one in await api.list(f"{path}/{kind}")
        for container in one["spec"]["template"]["spec"]["containers"]
    }


async def _evict(api: Api, pod: Object) -> None:
    meta = pod["metadata"]
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": meta["name"]}}
    await api.request("POST", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/eviction", body)


def _check_scaling(objects: list[Object]) -> None:
    """Every autoscaler and budget is about something that is there."""
    deployed = {
        (one["kind"], one["metadata"]["name"]): one
        for one in objects
        if one["kind"] in ("Deployment", "StatefulSet")
    }
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in deployed.values()]
    for one in objects:
        if one["kind"] == "HorizontalPodAutoscaler":
            target = one["spec"]["scaleTargetRef"]
            assert "replicas" not in deployed[target["kind"], target["name"]]["spec"], (
                "an upgrade would undo it"
            )
        elif one["kind"] == "PodDisruptionBudget":
            assert _selected(one["spec"]["selector"]["matchLabels"], labels)
        elif one["kind"] == "Service" and "selector" in one["spec"]:
            assert _selected(one["spec"]["selector"], labels), f"{one['metadata']['name']} leads nowhere"


def _selected(selector: dict[str, Any], labels: list[dict[str, Any]]) -> bool:
    return any(selector.items() <= one.items() for one in labels)


def _runs(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _why_pending(pod: Object) -> str:
    conditions: Iterator[Object] = iter(pod.get("status", {}).get("conditions", ()))
    return next((one.get("message", "") for one in conditions if one["type"] == "PodScheduled"), "")


def test_two_releases_share_a_namespace_and_change_who_may_call(cluster: Cluster, namespace: str) -> None:
    run, api = cluster.run, cluster.api
    _prepare(cluster, namespace)
    here = ["-n", namespace, "--wait", "--timeout", "30s"]
    for release in ("parley", "second"):
        cluster.helm("install", release, str(CHART), *_profile("cpu"), *here)
    services = run(api.list(f"/api/v1/namespaces/{namespace}/services"))
    pods = run(api.list(f"/api/v1/namespaces/{namespace}/pods"))
    for service in services:
        wanted = service["spec"]["selector"].items()
        behind = [pod["metadata"]["name"] for pod in pods if wanted <= pod["metadata"]["labels"].items()]
        release = service["metadata"]["labels"]["app.kubernetes.io/instance"]
        assert behind
        assert all(name.startswith(f"{release}-") for name in behind), (service["metadata"]["name"], behind)

    own = ["--set", "auth.existingSecret=parley-llm,auth.existingHashesSecret=parley-redis"]
    for values, hashes in (
        (own, "parley-redis"),
        (["--set", "auth.enabled=false"], ""),
        ([], "parley-key-hashes"),
    ):
        cluster.helm("upgrade", "parley", str(CHART), *_profile("cpu"), *here, *values)
        spec = run(api.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/parley-gateway"))["spec"]
        mounted = [
            one["secret"]["secretName"] for one in spec["template"]["spec"]["volumes"] if "secret" in one
        ]
        assert mounted == ([hashes] if hashes else [])
    for name in _BY_HAND:  # none was touched or taken away
        run(api.get(f"/api/v1/namespaces/{namespace}/secrets/{name}"))
    cluster.helm("uninstall", "parley", *here)
    assert run(api.list(f"/apis/apps/v1/namespaces/{namespace}/deployments")), "the other one stays"
