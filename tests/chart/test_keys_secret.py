"""`parley keys secret` in a real namespace, as a service account that may do no more than it needs."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.cli.keys_secret import FILE, KEYS, SEALING
from gateway.identity import Identity
from gateway.settings import AuthSettings
from tests.support.cluster import Cluster
from tests.support.kube_api import ApiError

PLAIN, HASHES = "parley-api-keys", "parley-key-hashes"


class Pod:
    """What the Job's container has: the API server's address, a token, the CA; and the command."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path, account: str = "keys") -> None:
        self.cluster, self.namespace, self.folder = cluster, namespace, folder
        token = cluster.kubectl("create", "token", account, "-n", namespace).strip()
        (folder / "token").write_text(token)
        (folder / "ca.crt").write_text(cluster.api._ca)
        (folder / "namespace").write_text(namespace)
        url = urlsplit(cluster.api.url)
        self.environment = os.environ | {
            "KUBERNETES_SERVICE_HOST": str(url.hostname),
            "KUBERNETES_SERVICE_PORT": str(url.port),
        }

    def start(self) -> subprocess.Popen[str]:
        command = [
            "keys",
            "secret",
            f"--plain={PLAIN}",
            f"--hashes={HASHES}",
            f"--service-account={self.folder}",
        ]
        return subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", *command],
            env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self) -> tuple[int, str, str]:
        process = self.start()
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def path(self, name: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/secrets/{name}"

    def read(self, name: str) -> dict[str, str]:
        found = self.cluster.run(self.cluster.api.get(self.path(name)))
        return {entry: base64.b64decode(value).decode() for entry, value in found["data"].items()}

    def delete(self, name: str) -> None:
        self.cluster.run(self.cluster.api.delete(self.path(name)))

    def create(self, name: str, entries: dict[str, str]) -> None:
        secret = {
            "apiVersion": "v1", "kind": "Secret", "stringData": entries,
            "metadata": {"name": name, "namespace": self.namespace},
        }  # fmt: skip
        self.cluster.run(self.cluster.api.create(secret))


def role(namespace: str, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    meta = {"name": "keys", "namespace": namespace}
    group = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": meta,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "keys"},
            "subjects": [{"kind": "ServiceAccount", **meta}],
        },
    ]  # fmt: skip


@pytest.fixture
def pod(cluster: Cluster, namespace: str, tmp_path: Path) -> Pod:
    secrets = {"apiGroups": [""], "resources": ["secrets"]}
    rules = [
        {**secrets, "verbs": ["create"]},
        {**secrets, "verbs": ["get"], "resourceNames": [PLAIN, HASHES]},
    ]
    for one in role(namespace, rules):
        cluster.run(cluster.api.create(one))
    return Pod(cluster, namespace, tmp_path)


def good_keys(hashes: dict[str, str], keys: dict[str, str], folder: Path) -> None:
    """Each key opens what it is for, and nothing else."""
    file = folder / "read.yaml"
    file.write_text(hashes[FILE])

    async def look() -> dict[str, frozenset[str]]:
        identity = Identity(AuthSettings(keys=file, max_sessions=5))
        found = {entry: await identity.caller(keys[entry], scopes[0]) for entry, scopes in KEYS.items()}
        assert found["internal-key"].max_sessions == 0
        assert found["api-key"].max_sessions == 5
        return {entry: caller.scopes for entry, caller in found.items()}

    assert asyncio.run(look()) == {entry: frozenset(scopes) for entry, scopes in KEYS.items()}


def test_a_pair_is_made_kept_and_made_whole(pod: Pod, tmp_path: Path) -> None:
    code, out, err = pod.run()
    assert (code, err) == (0, "")
    keys, hashes = pod.read(PLAIN), pod.read(HASHES)
    assert keys.keys() == {*KEYS, SEALING}
    assert len(keys[SEALING]) >= 32
    good_keys(hashes, keys, tmp_path)
    assert not any(key in out + hashes[FILE] for key in keys.values())
    # again, as at an upgrade: nothing changes
    assert pod.run()[0] == 0
    assert (pod.read(PLAIN), pod.read(HASHES)) == (keys, hashes)
    # half of it is gone, or never came to be
    pod.delete(HASHES)
    assert pod.run()[0] == 0
    assert pod.read(PLAIN) == keys
    good_keys(pod.read(HASHES), keys, tmp_path)
    # keys cannot be made from hashes
    pod.delete(PLAIN)
    code, _, err = pod.run()
    assert code == 1
    assert f"bring {PLAIN} back, or delete {HASHES}" in err


def test_two_at_once_agree(pod: Pod, tmp_path: Path) -> None:
    running = [pod.start() for _ in range(3)]
    assert [process.communicate(timeout=60) and process.returncode for process in running] == [0, 0, 0]
    good_keys(pod.read(HASHES), pod.read(PLAIN), tmp_path)


def test_keys_of_ones_own(pod: Pod) -> None:
    pod.create(PLAIN, {"api-key": "one-that-i-made-myself\n", SEALING: "s" * 40})
    code, out, _ = pod.run()
    assert code == 0
    assert "it lacks admin-key, internal-key, metrics-key" in out
    assert pod.read(HASHES)[FILE].count("sha256:") == 1
    pod.delete(PLAIN)
    pod.create(PLAIN, {"api-key": "another"})
    code, _, err = pod.run()
    assert code == 1
    assert f"{HASHES} does not know api-key of {PLAIN}" in err
    assert "another" not in err.replace(PLAIN, "")


def test_the_role_lets_it_do_no_more(pod: Pod, cluster: Cluster, namespace: str) -> None:
    assert pod.run()[0] == 0
    api = cluster.run(_as(cluster, namespace))
    try:
        for method, path in (
            ("DELETE", pod.path(PLAIN)), ("PUT", pod.path(PLAIN)), ("GET", f"/api/v1/namespaces/{namespace}/secrets"),
            ("GET", pod.path("another")), ("GET", f"/api/v1/namespaces/{namespace}/pods"),
        ):  # fmt: skip
            with pytest.raises(ApiError) as caught:
                cluster.run(api.request(method, path, {} if method == "PUT" else None))
            assert caught.value.status == 403, (method, path)
    finally:
        cluster.run(api.close())


async def _as(cluster: Cluster, namespace: str) -> Any:
    return cluster.api.as_service_account(namespace, "keys")


def test_without_the_role_it_is_said(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    code, _, err = Pod(cluster, namespace, tmp_path, "default").run()
    assert code == 1
    assert "does not let this service account get the Secret parley-api-keys" in err


def test_outside_of_a_pod_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    command = [sys.executable, "-m", "gateway.cli", "keys", "secret", "--plain=a", "--hashes=b"]
    done = subprocess.run(command, text=True, capture_output=True)
    assert (done.returncode, "this is no pod of Kubernetes" in done.stderr) == (1, True)
