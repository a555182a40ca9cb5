"""The chart with everything closed, run: TLS on every hop, clients' certificates, a restricted Triton that is shared."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.support.cluster import CHECKOUT, Cluster
from tests.support.kube_api import Object
from tests.support.kubelet import joined
from tests.support.stack import skip_without_triton

pytestmark = [pytest.mark.cluster, pytest.mark.stack, pytest.mark.timeout(170)]

CHART = CHECKOUT / "helm" / "parley"
CLOSED: Object = {
    "tls": {"enabled": True, "existingSecret": "own-tls", "clientAuth": "required", "triton": True},
    "gateway": {"drainSeconds": 5, "terminationGracePeriodSeconds": 10},
    "speech": {
        "topology": "shared",
        "drainSeconds": 5,
        "terminationGracePeriodSeconds": 30,
        "triton": {"repositoryKeySecret": "repository"},
        "voicePacks": {"morgan": "name: morgan\nlanguage: en-GB\nlicence: CC0-1.0\nspeaker: awb\n"},
    },
}


def _secret(name: str, data: dict[str, bytes]) -> Object:
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded}


def _certificate(namespace: str) -> dict[str, bytes]:
    """For the names that README.md says it must be good for."""
    authority = trustme.CA()
    services = ("gateway", "gateway-headless", "speech", "speech-headless", "triton-headless", "llm")
    made = authority.issue_cert(
        "localhost", *(f"parley-{one}.{namespace}.svc.cluster.local" for one in services)
    )
    return {
        "tls.crt": b"".join(one.bytes() for one in made.cert_chain_pems),
        "tls.key": made.private_key_pem.bytes(),
        "ca.crt": authority.cert_pem.bytes(),
    }


@pytest.fixture
def values(tmp_path: Path) -> Path:
    file = tmp_path / "values.json"
    file.write_text(json.dumps(CLOSED))
    return file


@pytest.fixture
def namespace_with_secrets(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace() as namespace:
        for secret in (
            _secret("own-tls", _certificate(namespace)),
            _secret("repository", {"repository-key": b"parley-key=only-ours"}),
        ):
            secret["metadata"]["namespace"] = namespace
            cluster.run(cluster.api.create(secret))
        yield namespace


def test_a_conversation_behind_closed_doors(
    cluster: Cluster, namespace_with_secrets: str, values: Path
) -> None:
    skip_without_triton()
    namespace = namespace_with_secrets
    profile = ["-f", str(CHART / "values-cpu.yaml"), "-f", str(values)]
    with joined(cluster) as kubelet:
        try:
            cluster.helm(
                "install", "parley", str(CHART), *profile, "-n", namespace, "--wait", "--timeout", "100s"
            )
            cluster.helm("test", "parley", "-n", namespace, "--timeout", "40s")
        except AssertionError as error:
            logs = "\n".join(f"=== {name}\n{text[-1_500:]}" for name, text in kubelet.logs().items())
            raise AssertionError("\n".join([str(error), *kubelet.told, logs])) from None
        lines = kubelet.log(namespace, "parley-test", "conversation").splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        (done,) = [event for event in events if event["type"] == "reply_done"]
        assert done["outcome"] == "completed"
        assert sum(event["type"] == "reply_audio" for event in events) > 50
        address = cluster.run(kubelet.forward(namespace, "parley-gateway", 50050))
        assert _talk(address, "--tls", "--tls-name", "localhost").returncode != 0, (
            "no certificate of ours, none of theirs"
        )
        assert _talk(address).returncode != 0, "it speaks TLS alone"
        cluster.helm("uninstall", "parley", "-n", namespace)
        pods = f"/api/v1/namespaces/{namespace}/pods"
        # The test's own pod is a hook, which helm leaves.
        cluster.run(cluster.api.until(pods, lambda left: set(left) <= {"parley-test"}, within_s=60))
        ended = "\n".join(kubelet.told)
        assert "gateway ended with 0" in ended, ended
        assert "speech ended with 0" in ended, ended
        assert "triton ended with 0" in ended, ended
        assert "preStop of" not in ended, "the hooks spoke TLS, and were let in"


def _talk(address: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway.cli", "talk", "--server", address, "--text", "Hello.", *words]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, cwd="/")
