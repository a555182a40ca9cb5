"""scripts/deploy on a real API server: each step, again, and with what is missing."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "scripts" / "deploy")
NAMESPACE = "deployed"


@pytest.fixture(scope="module")
def place(cluster: Cluster) -> Iterator[Cluster]:
    yield cluster
    cluster.forget(NAMESPACE)


def _deploy(
    cluster: Cluster | None, *words: str, namespace: str = NAMESPACE, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = (
        cluster.environment()
        if cluster is not None
        else {"PATH": "/usr/bin:/bin", "KUBECONFIG": "/nonexistent"}
    )
    return subprocess.run(
        [SCRIPT, *words, "--namespace", namespace], env={**environment, **variables}, cwd="/",
        capture_output=True, text=True, timeout=110,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say which step"),
        (["nosuch"], "there is no step nosuch"),
        (["infra", "riva"], "one step at a time"),
        (["infra", "--bogus"], "there is no option --bogus"),
        (["gateway", "--profile", "huge"], "there is no profile huge"),
        (["gateway", "--values", "nosuch.yaml"], "there is no file nosuch.yaml"),
    ],
)
def test_wrong_usage_is_one_sentence_and_2(words: list[str], said: str) -> None:
    done = _deploy(None, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_cluster_that_does_not_answer_is_said(cluster: Cluster) -> None:
    done = subprocess.run(
        [SCRIPT, "infra"], env={**cluster.environment(), "KUBECONFIG": "/nonexistent"}, cwd="/",
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the cluster does not answer" in done.stderr


def test_a_dry_run_changes_nothing(place: Cluster) -> None:
    for step in ("infra", "gateway", "riva"):
        done = _deploy(
            place, step, "--dry-run", namespace="default" if step == "riva" else "never", NGC_API_KEY="k"
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "never" not in place.kubectl("get", "namespaces")
    assert "ngc-secret" not in place.kubectl("-n", "default", "get", "secrets")


def test_infra_says_what_there_is_and_can_be_repeated(place: Cluster) -> None:
    first = _deploy(place, "infra", "--profile", "gpu")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "GPUs         2" in first.stdout
    assert "a default StorageClass" in first.stdout
    labels = json.loads(place.kubectl("get", "namespace", NAMESPACE, "-o", "json"))["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    place.kubectl(
        "create", "-f", "-", objects=[{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "sliced"}}]
    )
    try:
        slices = {"nvidia.com/mig-1g.10gb": "7"}
        patch = json.dumps({"status": {"allocatable": slices, "capacity": slices}})
        place.kubectl("patch", "node", "sliced", "--subresource=status", "--type=merge", "-p", patch)
        again = _deploy(place, "infra", "--profile", "gpu")
        assert again.returncode == 0, again.stdout + again.stderr
        assert "GPUs         9" in again.stdout, "slices of MIG count"
    finally:
        place.kubectl("delete", "node", "sliced", "--wait=false")


def test_infra_fails_where_the_profile_lacks_something(place: Cluster) -> None:
    done = _deploy(place, "infra", "--profile", "production")
    assert done.returncode == 1
    assert "no custom metrics: install prometheus-adapter" in done.stdout
    assert "missing for the profile production" in done.stderr


def test_riva_wants_a_key_and_puts_it_into_secrets_alone(place: Cluster) -> None:
    none = _deploy(place, "riva")
    assert none.returncode == 1
    assert "NGC_API_KEY is empty" in none.stderr
    for key in ("first-secret-key", "second-secret-key"):
        done = _deploy(place, "riva", NGC_API_KEY=key)
        assert done.returncode == 0, done.stdout + done.stderr
        assert key not in done.stdout + done.stderr
        pull = json.loads(place.kubectl("-n", NAMESPACE, "get", "secret", "ngc-secret", "-o", "json"))
        assert pull["type"] == "kubernetes.io/dockerconfigjson"
        auths = json.loads(base64.b64decode(pull["data"][".dockerconfigjson"]))["auths"]
        assert auths["nvcr.io"] == {"username": "$oauthtoken", "password": key}
        api = json.loads(place.kubectl("-n", NAMESPACE, "get", "secret", "ngc-api-secret", "-o", "json"))
        assert base64.b64decode(api["data"]["NGC_API_KEY"]).decode() == key
    assert "riva-models" in place.kubectl("-n", NAMESPACE, "get", "pvc")


def test_gateway_installs_and_upgrades(place: Cluster, tmp_path: Path) -> None:
    first = _deploy(place, "gateway", "--timeout", "60s")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "port-forward" in first.stdout
    values = tmp_path / "mine.yaml"
    values.write_text("gateway: {replicas: 2}\n")
    again = _deploy(
        place, "gateway", "--values", str(values), "--set", "gateway.workers=2", "--timeout", "60s"
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert (
        json.loads(place.kubectl("-n", NAMESPACE, "get", "deployment", "parley-gateway", "-o", "json"))[
            "spec"
        ]["replicas"]
        == 2
    )
    releases = json.loads(place.helm("-n", NAMESPACE, "list", "-o", "json"))
    assert [(one["name"], one["revision"], one["status"]) for one in releases] == [
        ("parley", "2", "deployed")
    ]


def test_values_that_the_chart_refuses_are_1_and_leave_what_is_there(place: Cluster) -> None:
    done = _deploy(place, "gateway", "--set", "nosuch=1")
    assert done.returncode == 1
    assert "was not installed" in done.stderr
