"""The tests' kubelet itself: that pods which it runs are what Kubernetes would have made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.kube_api import Object
from tests.support.kubelet import Kubelet, joined

pytestmark = pytest.mark.cluster

_REPORT = """
import json, os, pathlib, socket
def writable(path):
    try:
        pathlib.Path(path, "x").write_text("x")
        return True
    except OSError:
        return False
secret = pathlib.Path("/etc/secret/word")
print(json.dumps({
    "env": dict(os.environ), "uid": os.getuid(), "groups": os.getgroups(), "pid": os.getpid(),
    "host": socket.gethostname(), "cwd": os.getcwd(),
    "writable": [path for path in ("/", "/etc", "/usr", "/tmp", "/work") if writable(path)],
    "secret": secret.read_text(), "mode": oct(secret.stat().st_mode & 0o777), "group": secret.stat().st_gid,
    "init": pathlib.Path("/work/init").read_text(), "shm": os.statvfs("/dev/shm").f_frsize * os.statvfs("/dev/shm").f_blocks,
    "caps": next(line.split()[1] for line in open("/proc/self/status") if line.startswith("CapBnd")),
}))
"""
_SERVE = """
import http.server, os, pathlib, signal, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ok = self.path != "/ready" or pathlib.Path("/tmp/ready").exists()
        self.send_response(200 if ok else 503); self.end_headers(); self.wfile.write(os.environ["HOSTNAME"].encode())
    def log_message(self, *a): pass
def stop(*_): print(pathlib.Path("/tmp/order").read_text() + "term", flush=True); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Page).serve_forever()
"""


@pytest.fixture(scope="module")
def kubelet(cluster: Cluster) -> Iterator[Kubelet]:
    with joined(cluster) as running:
        yield running


def _pod(name: str, namespace: str, container: Object, **spec: Any) -> Object:
    safe = {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    bounds = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    spec["containers"] = [{"name": "main", "image": "parley:test", "securityContext": bounds, **container}]
    for one in spec.get("initContainers", ()):
        one.update(image="parley:test", securityContext=bounds)
    spec["securityContext"] = {**safe, **spec.get("securityContext", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": spec,
    }


def test_a_container_sees_what_its_pod_says(cluster: Cluster, kubelet: Kubelet, namespace: str) -> None:
    run, api = cluster.run, cluster.api
    meta = {"name": "words", "namespace": namespace}
    run(api.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"word": "open"}}))
    run(api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"place": "here"}}))
    container = {
        "command": ["python3", "-c", _REPORT],
        "env": [
            {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "words", "key": "word"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "BOTH", "value": "$(WORD) at $(IP), not $(OTHER)"},
        ],
        "envFrom": [{"configMapRef": {"name": "words"}, "prefix": "THE_"}],
        "workingDir": "/work",
        "volumeMounts": [
            {"name": "work", "mountPath": "/work"},
            {"name": "secret", "mountPath": "/etc/secret", "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    init = {
        "name": "init",
        "command": ["sh", "-c", "echo -n done > /work/init"],
        "volumeMounts": [{"name": "work", "mountPath": "/work"}],
    }
    pod = _pod(
        "sees",
        namespace,
        container,
        restartPolicy="Never",
        initContainers=[init],
        securityContext={"fsGroup": 4321},
        automountServiceAccountToken=False,
        volumes=[
            {"name": "work", "emptyDir": {}},
            {"name": "secret", "secret": {"secretName": "words", "defaultMode": 0o440}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
        ],
    )
    run(api.create(pod))
    path = f"/api/v1/namespaces/{namespace}/pods"
    found = run(api.until(path, lambda pods: _phase(pods["sees"]) in ("Succeeded", "Failed")))["sees"]
    said = kubelet.log(namespace, "sees", "main")
    assert _phase(found) == "Succeeded", said
    report = json.loads(said)
    address = found["status"]["podIP"]
    assert report["env"]["BOTH"] == f"open at {address}, not $(OTHER)"
    assert report["env"]["THE_place"] == "here"
    assert report["env"]["KUBERNETES_SERVICE_HOST"]
    assert not {"HOME", "PATH"} - report["env"].keys()
    assert "PYTEST_CURRENT_TEST" not in report["env"], "nothing of the machine's own environment"
    assert (report["uid"], report["pid"], report["host"]) == (1000, 1, "sees")
    assert 4321 in report["groups"]
    assert report["writable"] == ["/work"], "the root is read-only, and there is no /tmp but a mounted one"
    assert (report["secret"], report["mode"], report["group"]) == ("open", "0o440", 4321)
    assert report["init"] == "done"
    assert report["shm"] == 8 << 20
    assert int(report["caps"], 16) == 0


def test_a_service_leads_to_ready_pods_alone(cluster: Cluster, kubelet: Kubelet, namespace: str) -> None:
    run, api = cluster.run, cluster.api
    container = {
        "command": ["python3", "-c", _SERVE],
        "ports": [{"name": "web", "containerPort": 8000}],
        "startupProbe": {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 1, "failureThreshold": 20},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "web"}, "periodSeconds": 1, "failureThreshold": 1},
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo hook > /tmp/order"]}}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }  # fmt: skip
    for name in ("one", "two"):
        pod = _pod(name, namespace, container, volumes=[{"name": "tmp", "emptyDir": {}}])
        pod["metadata"]["labels"] = {"app": "web"}
        run(api.create(pod))
    for name, more in (("web", {}), ("direct", {"clusterIP": "None"})):
        spec = {"selector": {"app": "web"}, "ports": [{"name": "w", "port": 80, "targetPort": "web"}], **more}
        meta = {"name": name, "namespace": namespace}
        run(api.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}))
    path = f"/api/v1/namespaces/{namespace}/pods"
    run(api.until(path, lambda pods: len(pods) == 2 and all(map(_started, pods.values())), within_s=30))
    code, said = run(kubelet.run(namespace, "two", "main", *_fetch("http://web")))
    assert code, f"nobody is ready, and yet: {said}"

    run(kubelet.run(namespace, "two", "main", "touch", "/tmp/ready"))
    run(api.until(path, lambda pods: [_ready(pods[name]) for name in ("one", "two")] == [False, True]))
    run(_endpoints(kubelet, f"{namespace}/web", 1))
    for url in ("http://web", f"http://web.{namespace}.svc.cluster.local", "http://direct:8000"):
        assert run(kubelet.run(namespace, "one", "main", *_fetch(url))) == (0, "two\n")

    two = kubelet.pods(namespace, "two")[0]
    run(api.request("DELETE", f"{path}/two", {"gracePeriodSeconds": 5}))
    run(api.until(path, lambda pods: "two" not in pods))
    assert two.log("main").split() == ["hook", "term"]


def test_what_fails_is_started_again_and_what_hangs_is_killed(
    cluster: Cluster, kubelet: Kubelet, namespace: str
) -> None:
    run, api = cluster.run, cluster.api
    path = f"/api/v1/namespaces/{namespace}/pods"
    failing = {"command": ["sh", "-c", "echo again; exit 3"]}
    deaf = {
        "command": ["python3", "-c", "import time; print('deaf', flush=True); time.sleep(600)"],
        "livenessProbe": {
            "exec": {"command": ["test", "-e", "/nowhere"]},
            "periodSeconds": 1,
            "failureThreshold": 1,
        },
    }
    run(api.create(_pod("fails", namespace, failing, restartPolicy="OnFailure")))
    run(api.create(_pod("hangs", namespace, deaf, terminationGracePeriodSeconds=1)))
    pods = run(
        api.until(
            path,
            lambda pods: all(_restarts(pods.get(name, {})) >= 1 for name in ("fails", "hangs")),
            within_s=30,
        )
    )
    status = pods["fails"]["status"]["containerStatuses"][0]
    assert status["lastState"]["terminated"]["exitCode"] == 3
    assert any("fails its liveness probe" in line for line in kubelet.told)
    assert any("hangs: main is killed: its grace of 1 s is over" in line for line in kubelet.told)


def _fetch(url: str) -> list[str]:
    code = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=5).read().decode())"
    return ["python3", "-c", code]


async def _endpoints(kubelet: Kubelet, key: str, count: int) -> None:
    await kubelet.services.until(lambda: len(kubelet.services.endpoints(key).hosts) == count)


def _phase(pod: Object) -> str:
    return str(pod.get("status", {}).get("phase", ""))


def _ready(pod: Object) -> bool:
    return any(
        one["type"] == "Ready" and one["status"] == "True"
        for one in pod.get("status", {}).get("conditions", ())
    )


def _started(pod: Object) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return bool(statuses) and all(one["started"] for one in statuses)


def _restarts(pod: Object) -> int:
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return max((one["restartCount"] for one in statuses), default=0)
