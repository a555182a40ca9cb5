"""Commands of the installation guides: those marked `runs` are run, the others are known not to run here, and why."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.observability.rules import tool
from tests.support.cluster import Cluster

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs" / "guides"
CLUSTER = ["install-gke.md", "install-eks.md", "install-bare-metal.md", "upgrade.md"]
ALL = [*CLUSTER, "single-host.md", "troubleshooting.md", "images.md", "sizing.md", "observability.md"]

NOT_HERE = {
    "gcloud ": "needs an account",
    "eksctl ": "needs an account",
    "aws ": "needs an account",
    "docker ": "needs a container engine",
    "scripts/build ": "needs a container engine; its command line is checked",
    "helm repo add ": "another project's chart, from the network",
    "helm upgrade --install gpu-operator ": "another project's chart, from the network",
    "kubectl get nodes -L nvidia.com": "needs real GPU nodes to say anything",
    "kubectl -n parley rollout status ": "simulated GPU nodes have no labels: pods stay pending",
    "kubectl -n parley port-forward ": "simulated nodes have no kubelet",
    "kubectl -n parley logs ": "simulated nodes have no kubelet",
    "kubectl -n parley exec ": "simulated nodes have no kubelet",
    "kubectl -n parley get pods": "shows what is there",
    "helm -n parley test ": "needs real pods; the chart's own tests hold that conversation",
    "parley talk ": "needs real pods; its options are checked",
    "PARLEY_API_KEY=": "needs real pods; its options are checked",
    "PARLEY_TELEMETRY__OTLP=": "runs until it is ended: tests/observability/test_running.py does that",
    "parley serve gateway --log-json ": "likewise, and reads the log as it is read here",
}


def _blocks(guide: str) -> list[tuple[str, list[str]]]:
    """(info string, commands) of each fenced block that is no file."""
    found = re.findall(r"^```(.*)\n([\s\S]*?)^```$", (GUIDES / guide).read_text(), re.M)
    return [
        (info, [line for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.strip()])
        for info, text in found
        if info != "yaml"
    ]


def _readme() -> list[str]:
    """The commands of the README's way onto a cluster."""
    text = (ROOT / "README.md").read_text().split("## On a cluster")[1]
    block = re.findall(r"^```bash\n([\s\S]*?)^```$", text, re.M)[0]
    return [line for line in re.sub(r"\\\n\s*", " ", block).splitlines() if line.strip()]


def _runnable(guide: str) -> list[str]:
    return ["\n".join(commands) for info, commands in _blocks(guide) if info == "bash runs"]


@pytest.mark.parametrize("guide", ALL)
def test_each_command_runs_or_there_is_a_reason(guide: str) -> None:
    for info, commands in _blocks(guide):
        for command in commands:
            if info != "bash runs":
                assert any(command.startswith(known) for known in NOT_HERE), (
                    f"{guide}: why does this not run? {command}"
                )


def test_no_reason_is_left_over() -> None:
    commands = [c for guide in ALL for info, some in _blocks(guide) if info != "bash runs" for c in some]
    for known in NOT_HERE:
        assert any(command.startswith(known) for command in commands), known


def test_what_builds_is_understood() -> None:
    guides = [commands for guide in ALL for _, commands in _blocks(guide)]
    assert sum(c.startswith("scripts/build ") for c in _readme()) == 2
    for some in (*guides, _readme()):
        for command in (c.partition("#")[0].strip() for c in some if c.startswith("scripts/build ")):
            done = subprocess.run(
                    ["bash", "-uc", f"PROJECT=p ACCOUNT=1; {command} --dry-run --engine docker"],
                    cwd=ROOT, capture_output=True, text=True,
                )  # fmt: skip
            assert done.returncode == 0, f"{command}: {done.stderr}"


def test_what_talks_has_only_options_that_there_are() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "talk", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    commands = [c for guide in ALL for _, some in _blocks(guide) for c in some] + _readme()
    for command in (c for c in commands if "parley talk" in c):
        for option in re.findall(r"--[a-z-]+", command.partition("parley talk")[2]):
            assert option in said, command


@pytest.fixture(scope="module")
def place(cluster: Cluster) -> Iterator[Cluster]:
    cluster.gone("parley")  # as other tests may have left it
    yield cluster
    cluster.forget("parley")
    cluster.kubectl("delete", "storageclass/parley", "persistentvolume/parley-node-1", "--ignore-not-found")


def _run(script: str, environment: dict[str, str], cwd: Path) -> None:
    environment = {
        **environment,
        "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"


@pytest.mark.timeout(300)
def test_the_readme_installs_and_the_upgrade_guide_goes_on(place: Cluster) -> None:
    commands = [one for one in _readme() if not one.startswith("scripts/build ")]
    install, forward, export, talk = commands
    assert install.startswith("helm upgrade --install ")
    assert forward.startswith("kubectl -n parley port-forward service/parley-gateway ")
    assert talk.startswith("parley talk ")
    _run(install, place.environment(), ROOT)
    service = yaml.safe_load(place.kubectl("-n", "parley", "get", "service", "parley-gateway", "-o", "yaml"))
    assert int(forward.split()[-2].partition(":")[2]) in [port["port"] for port in service["spec"]["ports"]]
    # The simulated key Job made none.
    place.kubectl(
        "-n", "parley", "create", "secret", "generic", "parley-api-keys", "--from-literal=api-key=made-up"
    )
    _run(f'{export}\n[ "$PARLEY_API_KEY" = made-up ]', place.environment(), ROOT)
    for script in _runnable("upgrade.md"):
        _run(script, place.environment(), ROOT)
    assert "parley" not in place.kubectl("get", "namespaces", "-o", "name").replace("namespace/", "").split()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("guide", ["install-gke.md", "install-eks.md", "install-bare-metal.md"])
def test_an_installation_guide_runs(guide: str, place: Cluster) -> None:
    scripts = _runnable(guide)
    assert scripts
    place.kubectl("delete", "storageclass", "parley", "--ignore-not-found")
    for script in scripts:
        _run(script, place.environment(), ROOT)


def test_the_keys_of_a_single_host_are_made(tmp_path: Path) -> None:
    for script in _runnable("single-host.md"):
        _run(script, dict(os.environ), tmp_path)
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    for secret in compose["secrets"].values():
        assert (tmp_path / secret["file"]).is_file()
    assert len((tmp_path / "secrets" / "sealing-key").read_text().strip()) >= 32
    keys = tmp_path / "secrets" / "keys" / "keys.yaml"
    assert keys.stat().st_mode & 0o004
    assert keys.parent.stat().st_mode & 0o005 == 0o005
    assert len((tmp_path / "secrets" / "internal-key").read_text().split()) == 1


def test_what_the_guide_of_observability_checks_is_right() -> None:
    tool("promtool")
    (script,) = _runnable("observability.md")
    _run(script, dict(os.environ), ROOT)


def test_prometheus_takes_the_configuration_of_the_guide(tmp_path: Path) -> None:
    text = (GUIDES / "observability.md").read_text()
    (config,) = re.findall(r"^```yaml\n([\s\S]*?)^```$", text, re.M)
    (tmp_path / "prometheus.yml").write_text(config)
    (tmp_path / "helm").symlink_to(ROOT / "helm")
    _run(f"{tool('promtool')} check config prometheus.yml", dict(os.environ), tmp_path)


def test_what_troubleshooting_quotes_is_in_the_code() -> None:
    text = (GUIDES / "troubleshooting.md").read_text()
    code = "\n".join(
        path.read_text() for path in (ROOT / "gateway").rglob("*.py") if "protocol" not in path.parts
    )
    quoted = [part for line in re.findall(r"log `([^`]+)`", text) for part in re.split(r" ?… ?", line)]
    assert len(quoted) > 12
    for part in quoted:
        assert part.strip(": ") in re.sub(r'"\s*\n\s*f?"', "", code), f"no such line: {part}"
    metrics = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    named = set(re.findall(r"`(parley_[a-z_]+)", text))
    assert len(named) > 12
    for metric in named:
        assert f"`{metric}`" in metrics, metric
