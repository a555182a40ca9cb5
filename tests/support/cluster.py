"""A real Kubernetes control plane for tests: etcd, API server, controllers, scheduler, and kwok's simulated nodes.

    def test_something(cluster: Cluster, namespace: str) -> None:
        cluster.helm("install", "parley", str(CHART), "-n", namespace)
        pods = cluster.run(cluster.api.list(f"/api/v1/namespaces/{namespace}/pods"))

The fixtures are in tests/conftest.py; one control plane serves the whole run of pytest. Pods on simulated nodes
become Ready without anything running. Real processes are `tests.support.kubelet`'s.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.kube_api import Api, ApiError, Object
from tools.cluster.build import ToolsError, tools

T = TypeVar("T")

CHECKOUT = Path(__file__).parents[2]
OURS = Path(__file__).with_name("cluster_files")
"""Custom resources of projects that publish no module with theirs; how simulated pods of `helm test` end."""
SERVICES = "198.18.0.0/16"
"""Cluster addresses; the block is nobody's (RFC 2544), so that pods that really run can have them."""
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}

_START_S = 60.0
_STOP_S = 10.0
# What the chart's objects and the tests need; the others cost a second of CPU at each start.
_CONTROLLERS = (
    "deployment", "replicaset", "statefulset", "daemonset", "job", "cronjob", "endpoints", "endpointslice", "namespace",
    "serviceaccount", "serviceaccount-token", "root-ca-certificate-publisher", "garbage-collector", "disruption",
    "node-lifecycle", "horizontal-pod-autoscaler", "persistentvolume-binder", "persistentvolumeclaim-protection", "persistentvolume-protection",
    "ttl-after-finished",
)  # fmt: skip


def need_tools() -> Path:
    """The folder of the built tools; skips the test where there are none, but fails it in CI."""
    try:
        return tools()
    except ToolsError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


def tool(name: str) -> str:
    """Path of helm, kubectl, kubeconform …; skips or fails as `need_tools`."""
    return str(need_tools() / "bin" / name)


class Cluster:
    """`with Cluster() as cluster:` starts it (some 6 s) and stops it, whatever happens."""

    def __init__(self, *, nodes: int = 2, gpus: int = 1) -> None:
        """nodes: simulated ones, of 32 CPUs, 256 GiB and `gpus` GPUs each."""
        self._tools, self._nodes, self._gpus = need_tools(), nodes, gpus
        self.folder = Path(tempfile.mkdtemp(prefix="parley-cluster-"))
        self.kubeconfig = self.folder / "kubeconfig"
        self.url, self.ca, self.token = "", "", secrets.token_hex(16)
        self.api: Api
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cluster", daemon=True)

    def __enter__(self) -> Cluster:
        self._thread.start()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def run(self, work: Coroutine[Any, Any, T], within_s: float = 60.0) -> T:
        """Run a coroutine in the cluster's own loop, from any other thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(within_s)

    def kubectl(self, *arguments: str, objects: Sequence[Object] = (), within_s: float = 60.0) -> str:
        """Its output. objects: on stdin, for `-f -`. Raises: AssertionError with what it said."""
        return self._tool("kubectl", arguments, within_s, objects)

    def helm(self, *arguments: str, within_s: float = 90.0) -> str:
        """Its output. Raises: AssertionError with what it said."""
        return self._tool("helm", arguments, within_s)

    def environment(self) -> dict[str, str]:
        """For programs that shall speak to this cluster: the tools on PATH, KUBECONFIG, helm's folders."""
        ours = {f"HELM_{name}_HOME": str(self.folder / "helm" / name) for name in ("CACHE", "CONFIG", "DATA")}
        path = f"{self._tools / 'bin'}:{os.environ.get('PATH', os.defpath)}"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("KUBE", "HELM"))}
        return {**kept, **ours, "KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def cordon(self, *, off: bool = False) -> None:
        """Have no further pods on the simulated nodes; `off` ends that."""
        for number in range(self._nodes):
            self.run(
                self.api.patch(
                    f"/api/v1/nodes/fake-{number}", {"spec": {"unschedulable": None if off else True}}
                )
            )

    def forget(self, namespace: str) -> None:
        """Delete a namespace and wait for nothing: its pods' grace is not spent, they are simulated."""
        if self.kubectl("get", "namespace", namespace, "--ignore-not-found", "-o", "name"):
            self._no_pods(namespace)
            self.kubectl("delete", "namespace", namespace, "--wait=false")

    def gone(self, namespace: str) -> None:
        """Wait until a namespace that was forgotten is not there any more."""
        self.kubectl("wait", "--for=delete", f"namespace/{namespace}", "--timeout=50s")

    def _no_pods(self, namespace: str) -> None:
        self.kubectl("-n", namespace, "delete", "deployments,statefulsets,jobs", "--all", "--wait=false")
        self.kubectl(
            "-n", namespace, "delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false"
        )

    @contextmanager
    def namespace(self, name: str = "", *, labels: dict[str, str] | None = None) -> Iterator[str]:
        """A fresh one, restricted as Pod Security has it unless `labels` say otherwise; deleted afterwards."""
        name = name or f"test-{secrets.token_hex(4)}"
        meta = {"name": name, "labels": RESTRICTED if labels is None else labels}
        self.run(self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta}))
        try:  # until then, its pods are refused
            self.run(
                self.api.until(f"/api/v1/namespaces/{name}/serviceaccounts", lambda found: "default" in found)
            )
            yield name
        finally:
            self.run(self.api.delete(f"/api/v1/namespaces/{name}"))

    def _tool(
        self, name: str, arguments: Sequence[str], within_s: float, objects: Sequence[Object] = ()
    ) -> str:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}) if objects else None
        done = subprocess.run(
            [str(self._tools / "bin" / name), *arguments],
            env=self.environment(),
            input=text,
            capture_output=True,
            text=True,
            timeout=within_s,
        )
        assert done.returncode == 0, (
            f"{name} {' '.join(arguments)}: {done.stderr.strip()[-4_000:]}{done.stdout[-2_000:]}"
        )
        return done.stdout

    def _start(self) -> None:
        etcd, peer, port, kwok = free_ports(4)
        folder, server = self.folder, f"https://127.0.0.1:{port}"
        _write_keys(folder)
        (folder / "tokens.csv").write_text(f'{self.token},admin,admin,"system:masters"\n')
        self._spawn(
            "etcd", "--name=default", f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=error",
            f"--listen-client-urls=http://127.0.0.1:{etcd}", f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
        )  # fmt: skip
        self._until(lambda: _connects(etcd), "etcd")
        self._spawn(
            "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{etcd}", "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1", f"--secure-port={port}", "--endpoint-reconciler-type=none",
            f"--cert-dir={folder / 'certs'}", f"--service-cluster-ip-range={SERVICES}", "--allow-privileged=true",
            "--authorization-mode=Node,RBAC", f"--token-auth-file={folder / 'tokens.csv'}", "--profiling=false",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={folder / 'sa.pub'}",
            f"--service-account-signing-key-file={folder / 'sa.key'}",
        )  # fmt: skip
        certificate = folder / "certs" / "apiserver.crt"
        self._until(lambda: certificate.is_file() and _connects(port), "kube-apiserver")
        self.url, self.ca = server, certificate.read_text()
        self._write_kubeconfig(certificate)
        self.api = self.run(self._open())
        self._until(self._ready, "kube-apiserver")
        self._spawn(
            "kube-controller-manager", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0",
            "--use-service-account-credentials=true", f"--service-account-private-key-file={folder / 'sa.key'}",
            f"--root-ca-file={certificate}", "--node-monitor-grace-period=1h",
            f"--controllers={','.join(f'{name}-controller' for name in _CONTROLLERS)}",
        )  # fmt: skip
        self._spawn(
            "kube-scheduler", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0"
        )
        self._spawn(
            "kwok", f"--kubeconfig={self.kubeconfig}", "--manage-all-nodes=false", "--cidr=10.244.0.0/16",
            "--manage-nodes-with-label-selector=type=kwok", "--node-ip=127.0.0.1", f"--node-port={kwok}",
            f"--server-address=127.0.0.1:{kwok}", "--node-lease-duration-seconds=40",
            f"--config={self._tools / 'stages.yaml'}", f"--config={OURS / 'helm-tests.stage'}",
        )  # fmt: skip
        self.run(self._furnish())

    async def _open(self) -> Api:
        return Api(self.url, self.ca, self.token)

    def _ready(self) -> bool:
        try:
            self.run(self.api.request("GET", "/readyz", within_s=5))
        except (ApiError, OSError, TimeoutError):
            return False
        return True

    async def _furnish(self) -> None:
        """Nodes, custom resources, a storage class; done when a pod could run."""
        for number in range(self._nodes):
            await self.api.create(_node(number, self._gpus))
        crds = [*sorted((self._tools / "crds").glob("*.yaml")), *sorted(OURS.glob("*.yaml"))]
        documents = [one for path in crds for one in yaml.load_all(path.read_text(), yaml.CSafeLoader) if one]
        await asyncio.gather(*(self.api.create(one) for one in documents))
        runtime = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": "nvidia"}
        await self.api.create({**runtime, "metadata": {"name": "nvidia"}})
        await self.api.create({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "kwok.x-k8s.io/volume",
            "metadata": {"name": "kwok-volume", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        })  # fmt: skip
        await self.api.until(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            lambda found: len(found) >= len(documents) and all(map(_established, found.values())),
        )
        await self.api.until(
            "/api/v1/namespaces/default/serviceaccounts", lambda found: "default" in found, within_s=_START_S
        )
        await self.api.until(
            "/api/v1/nodes",
            lambda found: sum(map(_node_ready, found.values())) >= self._nodes,
            within_s=_START_S,
        )

    def _spawn(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [self._tools / "bin" / name, *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=self.folder,
                env={**os.environ, "GOGC": "200", "HOME": str(self.folder)},
            )
        self._processes.append((name, process))

    def _until(self, holds: Any, name: str) -> None:
        """These programs tell nobody when they are ready: they are asked."""
        limit = time.monotonic() + _START_S
        while not holds():
            for started, process in self._processes:
                if process.poll() is not None:
                    log = (self.folder / f"{started}.log").read_text(errors="replace")
                    raise AssertionError(f"{started} ended ({process.returncode}): {log[-2_000:]}")
            assert time.monotonic() < limit, f"{name} was not ready in {_START_S:g} s"
            time.sleep(0.05)

    def _write_kubeconfig(self, certificate: Path) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "t", "cluster": {"server": self.url, "certificate-authority": str(certificate)}}
            ],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": "admin"}}],
            "current-context": "t",
        }
        self.kubeconfig.write_text(json.dumps(config))
        self.kubeconfig.chmod(0o600)

    def stop(self) -> None:
        if hasattr(self, "api"):
            self.run(self.api.close())
        # etcd last: the others would wait for it.
        for name, process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(1.0 if name == "kube-apiserver" else _STOP_S)  # it waits long for open watches
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _connects(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _established(crd: Object) -> bool:
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


def _node_ready(node: Object) -> bool:
    """Ready, and no longer tainted as it is at first."""
    return not node["spec"].get("taints") and any(
        one["type"] == "Ready" and one["status"] == "True"
        for one in node.get("status", {}).get("conditions", ())
    )


def _node(number: int, gpus: int) -> Object:
    name = f"fake-{number}"
    room = {"cpu": "32", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "110"}
    if gpus:
        room["nvidia.com/gpu"] = str(gpus)
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": f"zone-{number}",
        "nvidia.com/gpu.present": str(gpus > 0).lower(),
        "type": "kwok",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": room, "capacity": room},
    }


def _write_keys(folder: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (folder / "sa.key").write_bytes(private)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "sa.pub").write_bytes(public)
