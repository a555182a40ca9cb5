"""A node on which pods are processes of this machine; joins a `tests.support.cluster.Cluster`.

    with joined(cluster) as kubelet:
        cluster.helm("install", "parley", str(CHART), "-n", namespace, "--wait")
        address = cluster.run(kubelet.forward(namespace, "parley-gateway", 50050))

What a kubelet does, it does: init containers, volumes and their owners, environment, users, read-only roots, probes,
restarts, hooks, graces; a service's address and name lead to ready pods. It imposes no limits of CPU and memory, no
NetworkPolicy, and pulls no images (images.py). Needs root, `unshare`, `nsenter`, `setpriv` and `ip`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.cluster import Cluster
from tests.support.kube_api import Api, ApiError, Object
from tests.support.kubelet.images import Images
from tests.support.kubelet.network import GATEWAY, Network
from tests.support.kubelet.pod import Host, Pod
from tests.support.kubelet.relay import Relay
from tests.support.kubelet.services import Services

NODE = "here"
_PROGRAMS = ("unshare", "nsenter", "setpriv", "ip", "chroot", "mount")
_ROOM = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "110"}


def need_kubelet() -> None:
    """Skips the test where containers cannot be run as processes, but fails it in CI."""
    missing = [name for name in _PROGRAMS if shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    if os.geteuid() == 0 and not missing:
        return
    why = (
        f"no {', '.join(missing)} (Debian/Ubuntu: apt-get install util-linux iproute2)"
        if missing
        else "only root may"
    )
    said = f"containers cannot be run as processes here: {why}"
    if os.environ.get("CI"):
        pytest.fail(said)
    pytest.skip(said)


@contextmanager
def joined(cluster: Cluster, *, models: Mapping[str, Path] | None = None) -> Iterator[Kubelet]:
    """The one node that takes pods meanwhile. models: further ones for the Triton image, by name."""
    need_kubelet()
    kubelet = Kubelet(cluster.api, models=models)
    cluster.cordon()
    try:
        cluster.run(kubelet.start())
        yield kubelet
    finally:
        cluster.run(kubelet.stop())
        cluster.cordon(off=True)


class Kubelet:
    """Lives in the cluster's loop: its coroutines go through `cluster.run`."""

    def __init__(self, api: Api, *, models: Mapping[str, Path] | None = None) -> None:
        self._api = api
        self.folder = Path(tempfile.mkdtemp(prefix="parley-kubelet-"))
        self.folder.chmod(0o755)
        self.network = Network()
        url = urlsplit(api.url)
        self.services = Services(api, self.network, (str(url.hostname), int(url.port or 443)))
        self.told: list[str] = []
        """What happened, one line each."""
        images = Images(self.folder / "images", dict(models or {}))
        self._host = Host(api, self.network, self.services, images, self.folder, self._tell)
        self._pods: dict[str, Pod] = {}
        self._gone: dict[str, Pod] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None
        self._relays: list[Relay] = []

    async def start(self) -> None:
        await self.network.start()
        await self.services.start()
        await self._join()
        self._following = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Whatever runs is killed; nothing is left."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await asyncio.gather(*(pod.kill() for pod in self._pods.values()))
        for relay in self._relays:
            await relay.close()
        await self.services.close()
        await self.network.close()
        await self._api.delete(f"/api/v1/nodes/{NODE}")
        shutil.rmtree(self.folder, ignore_errors=True)

    def pods(self, namespace: str, part: str = "") -> list[Pod]:
        """Those that run here and have `part` in their names."""
        return [
            pod
            for key, pod in sorted(self._pods.items())
            if key.startswith(f"{namespace}/") and part in pod.name
        ]

    def log(self, namespace: str, pod: str, container: str) -> str:
        """What a container wrote, in all of its lives; of pods that are gone too."""
        key = f"{namespace}/{pod}"
        return (self._pods.get(key) or self._gone[key]).log(container)

    def logs(self) -> dict[str, str]:
        """What every container wrote, by "namespace/pod/container"."""
        return {
            f"{key}/{one.name}": pod.log(one.name)
            for key, pod in sorted({**self._gone, **self._pods}.items())
            for one in (*pod.inits, *pod.mains)
        }

    async def run(
        self,
        namespace: str,
        pod: str,
        container: str,
        *argv: str,
        within_s: float = 60.0,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        """As `kubectl exec`: exit code and output."""
        running = self._pods[f"{namespace}/{pod}"].container(container).running
        assert running is not None, f"{container} of {pod} does not run"
        return await running.run(argv, within_s=within_s, environment=environment)

    async def forward(self, namespace: str, name: str, port: int) -> str:
        """As `kubectl port-forward`, but through a service to whichever pod is ready at each connection: "host:port".

        name: of a pod, or of a service that has an address.
        """

        async def dial() -> socket.socket:
            pod = self._pods.get(f"{namespace}/{name}")
            hosts = [pod.ip] if pod else self.services.resolve(f"{name}.{namespace}.svc.cluster.local")
            if not hosts:
                raise ConnectionRefusedError(f"there is no pod and no service {name}")
            return await self.network.connect(hosts[0], port)

        relay, listener = Relay(dial), socket.socket()
        listener.bind(("127.0.0.1", 0))
        await relay.start(listener)
        self._relays.append(relay)
        return f"127.0.0.1:{listener.getsockname()[1]}"

    async def _join(self) -> None:
        labels = {
            "kubernetes.io/hostname": NODE,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": "zone-here",
        }
        await self._api.create(
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels}}
        )
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "runs processes"}
        status: Object = {
            "capacity": _ROOM,
            "allocatable": _ROOM,
            "conditions": [ready],
            "addresses": [{"type": "InternalIP", "address": GATEWAY}, {"type": "Hostname", "address": NODE}],
        }
        await self._api.patch(f"/api/v1/nodes/{NODE}/status", {"status": status}, strategic=True)

    async def _follow(self) -> None:
        while True:
            async for event, pod in self._api.watch("/api/v1/pods", fieldSelector=f"spec.nodeName={NODE}"):
                key = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
                known = self._pods.get(key)
                if known is not None and known.object["metadata"]["uid"] != pod["metadata"]["uid"]:
                    known = None
                if event == "DELETED":
                    if known is not None and not known.ending:
                        known.ending = True
                        self._later(self._drop(key, known, 0.0))
                elif pod["metadata"].get("deletionTimestamp"):
                    if known is None:
                        self._later(self._remove(pod))
                    elif not known.ending:
                        known.ending = True
                        grace = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
                        self._later(self._drop(key, known, grace))
                elif known is None:
                    self._pods[key] = Pod(self._host, pod)
                    self._pods[key].start()

    async def _drop(self, key: str, pod: Pod, grace_s: float) -> None:
        await pod.end(grace_s)
        self._gone[key] = pod
        if self._pods.get(key) is pod:
            del self._pods[key]
        await self._remove(pod.object)

    async def _remove(self, pod: Object) -> None:
        meta = pod["metadata"]
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
        try:
            await self._api.request(
                "DELETE", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", body
            )
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    def _later(self, work: object) -> None:
        assert asyncio.iscoroutine(work)
        task = asyncio.ensure_future(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _tell(self, what: str) -> None:
        self.told.append(what)
