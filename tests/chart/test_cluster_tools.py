"""The tests' own control plane: that it is a real one, and that a build is used only when it is whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.kube_api import ApiError
from tools.cluster import build
from tools.cluster.build import PROGRAMS, ToolsError

ROOT = Path(__file__).parents[2]


def _where(home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.cluster.build", "--where"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(home), **more},
        capture_output=True,
        text=True,
    )


def test_a_missing_build_says_what_to_run(tmp_path: Path) -> None:
    done = _where(tmp_path)
    assert done.returncode == 1
    assert "run scripts/cluster-tools" in done.stderr


def test_half_a_build_is_none(tmp_path: Path) -> None:
    for name in PROGRAMS[:-1]:
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).touch()
    done = _where(tmp_path, PARLEY_CLUSTER_TOOLS=str(tmp_path))
    assert done.returncode == 1
    assert f"no {PROGRAMS[-1]} in" in done.stderr
    (tmp_path / "bin" / PROGRAMS[-1]).touch()
    assert _where(tmp_path, PARLEY_CLUSTER_TOOLS=str(tmp_path)).stdout.strip() == str(tmp_path)


def test_another_version_is_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in build._SOURCES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((build.HERE / name).read_bytes())
    monkeypatch.setattr(build, "HERE", tmp_path)
    before = build.folder()
    pinned = (tmp_path / "go.mod").read_text()
    (tmp_path / "go.mod").write_text(pinned.replace("helm.sh/helm/v3 v3.", "helm.sh/helm/v3 v3.9"))
    assert build.folder().parent == before.parent
    assert build.folder() != before


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build.Go, "run", _refuse)
    monkeypatch.setattr(build, "find_go", lambda: build.Go("go"))
    (tmp_path / "parley" / "cluster" / ".building-of-a-killed-one").mkdir(parents=True)
    with pytest.raises(ToolsError, match="no network"):
        build.build()
    assert [one.name for one in (tmp_path / "parley" / "cluster").iterdir()] == [".lock"]


def _refuse(self: build.Go, *arguments: str, cwd: Path) -> str:
    raise ToolsError("no network")


@pytest.mark.cluster
def test_the_control_plane_is_real(cluster: Cluster, namespace: str) -> None:
    version = cluster.run(cluster.api.get("/version"))
    assert version["gitVersion"] == build._pinned("k8s.io/kubernetes")
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "idle", "namespace": namespace},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "idle"}},
            "template": {"metadata": {"labels": {"app": "idle"}}, "spec": _POD},
        },
    }
    path = cluster.run(cluster.api.path_of(cluster.run(cluster.api.create(deployment))))
    cluster.run(
        cluster.api.until(
            path.rpartition("/")[0],
            lambda found: found["idle"].get("status", {}).get("readyReplicas") == 2,
        )
    )


@pytest.mark.cluster
def test_pod_security_is_enforced(cluster: Cluster, namespace: str) -> None:
    loose = {**_POD, "securityContext": {}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "loose", "namespace": namespace},
        "spec": loose,
    }
    with pytest.raises(ApiError, match="violates PodSecurity"):
        cluster.run(cluster.api.create(pod))


_POD = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "idle",
            "image": "idle:1",
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ],
}
