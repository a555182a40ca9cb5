"""k8s/: written from the chart, whole, and taken by a real API server."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cluster import Cluster, need_tools, tool

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
PROFILES = sorted(
    path.stem.removeprefix("values-") for path in (ROOT / "helm" / "parley").glob("values-*.yaml")
)


@pytest.fixture(scope="module")
def parley(cluster: Cluster) -> Iterator[Cluster]:
    """With the namespace of k8s/base."""
    cluster.gone("parley")  # as other tests may have left it
    cluster.kubectl("apply", "--server-side", "-k", str(K8S / "base"))
    yield cluster
    cluster.forget("parley")


def _kustomize(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run([tool("kubectl"), "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def _names(objects: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(one["kind"], one["metadata"]["name"]) for one in objects}


def test_they_are_what_the_chart_makes() -> None:
    need_tools()
    done = subprocess.run([str(ROOT / "scripts" / "manifests"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_a_change_by_hand_is_found(tmp_path: Path) -> None:
    need_tools()
    for name in ("helm", "k8s", "scripts", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    changed = tmp_path / "k8s" / "profiles" / "cpu" / "parley.yaml"
    changed.write_text(changed.read_text().replace("runAsNonRoot: true", "runAsNonRoot: false"))
    done = subprocess.run(
        [str(tmp_path / "scripts" / "manifests"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "k8s/profiles/cpu/parley.yaml is not what the chart makes: run scripts/manifests" in done.stderr
    assert "+" in done.stdout
    assert "runAsNonRoot: true" in done.stdout


def test_every_profile_has_an_overlay() -> None:
    assert sorted(path.name for path in (K8S / "overlays").iterdir()) == PROFILES
    assert sorted(path.name for path in (K8S / "profiles").iterdir()) == PROFILES


@pytest.mark.parametrize("profile", PROFILES)
def test_an_overlay_holds_its_profile_whole_and_is_valid(profile: str) -> None:
    objects = _kustomize(K8S / "overlays" / profile)
    wanted = _names(
        [one for one in yaml.safe_load_all((K8S / "profiles" / profile / "parley.yaml").read_text()) if one]
    )
    assert wanted | {("Namespace", "parley")} <= _names(objects)
    assert {one["metadata"].get("namespace", "parley") for one in objects} == {"parley"}
    schemas = need_tools() / "schemas/{{ .ResourceKind }}{{ .KindSuffix }}.json"
    foreign = "ServiceMonitor,PodMonitor,PrometheusRule,NIMService,NIMCache,GRPCRoute,HTTPRoute,Certificate"
    done = subprocess.run(
        [tool("kubeconform"), "-strict", "-summary", "-skip", foreign, "-schema-location", str(schemas), "-"],
        input=yaml.safe_dump_all(objects), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_llm_of_an_overlay_reaches_the_gateway() -> None:
    for profile in ("gpu", "riva"):
        objects = _kustomize(K8S / "overlays" / profile)
        (gateway,) = (
            o for o in objects if o["kind"] == "Deployment" and o["metadata"]["name"] == "parley-gateway"
        )
        container = gateway["spec"]["template"]["spec"]["containers"][0]
        assert container["name"] == "gateway"
        assert {"PARLEY_LLM__BASE_URL", "PARLEY_LLM__MODEL"} <= {one["name"] for one in container["env"]}


def test_monitoring_goes_onto_any_overlay(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    overlay = tmp_path / "k8s" / "overlays" / "cpu" / "kustomization.yaml"
    text = overlay.read_text()
    assert "# components: [../../components/monitoring]" in text
    overlay.write_text(text.replace("# components:", "components:"))
    plain = _names(_kustomize(K8S / "overlays" / "cpu"))
    more = _names(_kustomize(tmp_path / "k8s" / "overlays" / "cpu")) - plain
    assert {"ServiceMonitor", "PodMonitor"} <= {kind for kind, _ in more}


@pytest.mark.parametrize("profile", ["gpu", "production"])
def test_a_class_for_the_cache_is_a_patch_away(profile: str, tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    overlay = tmp_path / "k8s" / "overlays" / profile / "kustomization.yaml"
    lines = overlay.read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if "name: parley-engines" in line)
    for number in range(start, start + 3):
        lines[number] = lines[number].replace("# ", "", 1)
    overlay.write_text("\n".join(lines))
    (claim,) = (one for one in _kustomize(overlay.parent) if one["kind"] == "PersistentVolumeClaim")
    assert claim["spec"]["storageClassName"] == "parley"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_api_server_takes_an_overlay(profile: str, parley: Cluster) -> None:
    overlay = str(K8S / "overlays" / profile)
    said = parley.kubectl("apply", "--server-side", "--dry-run=server", "--force-conflicts", "-k", overlay)
    assert "deployment.apps/parley-gateway" in said


def test_storage_classes_and_volumes_are_taken(cluster: Cluster) -> None:
    for file in sorted((K8S / "storage").glob("*.yaml")):
        said = cluster.kubectl("apply", "--server-side", "--dry-run=server", "-f", str(file))
        assert "storageclass.storage.k8s.io/parley" in said


def test_the_cpu_overlay_runs_on_simulated_nodes(parley: Cluster) -> None:
    overlay = str(K8S / "overlays" / "cpu")
    # The key Job would make the Secrets: simulated pods do nothing, and need none.
    text = (K8S / "README.md").read_text()
    (block,) = re.findall(r"^```\n(kubectl [\s\S]*?)^```$", text, re.M)
    (before,) = re.findall(r"before an upgrade `kubectl ([^`]+)`", text)
    for command in [*block.splitlines(), f"kubectl {before}"]:
        words = shlex.split(command)
        assert words[0] == "kubectl"
        parley.kubectl(*(overlay if word == "k8s/overlays/cpu" else word for word in words[1:]))
    for name in ("parley-gateway", "parley-speech", "parley-llm"):
        parley.kubectl("-n", "parley", "rollout", "status", f"deployment/{name}", "--timeout=40s")
    again = parley.kubectl("apply", "-k", overlay)
    assert "deployment.apps/parley-gateway unchanged" in again
    assert "job.batch/parley-keys created" in again
