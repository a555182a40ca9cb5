"""compose.yaml as Docker's own loader reads it, and its services as processes where there is no container engine.

A project runs in a network of its own (unshare), each service with mounts of its own: the tree that the image's steps
made at /opt/parley, its secrets at /run/secrets, each a mounted file as Docker does it, folders of the host where its volumes
say, the services' names in /etc/hosts; as user 1000, without capabilities.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from gateway.triton.exported.environment import cache_folder
from load.caller_build import BuildError, find_go
from tests.support.image_trees import ROOT, Tree

VERSION = "v2.16.2"
"""Of compose-go, the loader that `docker compose` is built on."""
_BUILD_S = 240.0


def loader() -> Path:
    """The built program. Skips the test where it cannot be had; in CI that is a failure."""
    target = cache_folder() / f"compose-go-{VERSION}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="compose-go-", dir=target.parent) as folder:
        try:
            command = [str(find_go()), "install", f"github.com/compose-spec/compose-go/v2/cmd@{VERSION}"]
            env = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOBIN": folder, "GOFLAGS": ""}
            subprocess.run(command, env=env, capture_output=True, text=True, timeout=_BUILD_S, check=True)
        except (BuildError, OSError, subprocess.SubprocessError) as error:
            why = f"compose-go cannot be built, which needs Go and its modules: {getattr(error, 'stderr', None) or error}"
            if os.environ.get("CI"):
                pytest.fail(why)
            pytest.skip(why)
        (Path(folder) / "cmd").replace(target)
    return target


def load(*files: Path, **variables: str) -> dict[str, Any]:
    """The project with every default filled in, later files over earlier. Raises AssertionError with what the loader said."""
    environment = {"PATH": os.environ["PATH"], **variables}
    done = subprocess.run(
        [str(loader()), "-format", "json", *map(str, files)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    project: dict[str, Any] = json.loads(done.stdout)
    return project


def can_isolate() -> bool:
    """Namespaces need root here."""
    return os.geteuid() == 0 and all(map(shutil.which, ("unshare", "nsenter", "setpriv", "ip")))


def seconds(text: str) -> float:
    """ "1m30s" as Compose writes durations."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)(ms|h|m|s)", text))


class Host:
    """`with Host(project, trees, secrets) as host:` starts all services in the order of their dependencies.

    trees: by image name without registry and tag. volumes: a folder for each target below /run that services mount.
    secrets: the text of each of the project's secrets.
    """

    def __init__(
        self, project: Mapping[str, Any], trees: Mapping[str, Tree], secrets: Mapping[str, str],
        volumes: Mapping[str, Path], folder: Path,
    ) -> None:  # fmt: skip
        self._project, self._trees, self._secrets, self._folder = project, trees, secrets, folder
        self._volumes = volumes
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._network: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Host:
        hosts = "".join(f"127.0.0.1 {name}\n" for name in ("localhost", *self._project["services"]))
        (self._folder / "hosts").write_text(hosts)
        script = "ip link set lo up && echo up && exec sleep 600"
        self._network = subprocess.Popen(["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE)
        assert self._network.stdout is not None
        assert self._network.stdout.readline() == b"up\n"
        try:
            waiting = dict(self._project["services"])
            while waiting:
                able = [
                    name
                    for name, service in waiting.items()
                    if not set(service.get("depends_on") or {}) & set(waiting)
                ]
                assert able, f"these wait for one another: {sorted(waiting)}"
                for name in able:
                    self._start(name)
                for name in able:
                    self._wait_healthy(name)
                    del waiting[name]
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def run(self, name: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command inside a service's container, as `docker compose exec` does."""
        command = self._inside(name, words, variables)
        return subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60)

    def stop(self) -> dict[str, int]:
        """SIGTERM, then SIGKILL after the service's grace; exit statuses. In the order of dependencies, reversed."""
        statuses: dict[str, int] = {}
        for name, process in reversed(self._running.items()):
            process.send_signal(signal.SIGTERM)
            try:
                grace = seconds(self._project["services"][name].get("stop_grace_period", "10s"))
                statuses[name] = process.wait(min(grace, 40.0))
            except subprocess.TimeoutExpired:
                process.kill()
                statuses[name] = process.wait()
        self._running.clear()
        if self._network is not None:
            self._network.kill()
            self._network.wait()
            self._network = None
        return statuses

    def _start(self, name: str) -> None:
        service = self._project["services"][name]
        entry = "tritonserver" if "triton" in service["image"] else "parley"
        command = self._inside(name, [entry, *service["command"]], {})
        with (self._folder / f"{name}.log").open("wb") as out:
            self._running[name] = subprocess.Popen(command, cwd="/", stdout=out, stderr=subprocess.STDOUT)

    def _inside(self, name: str, words: Sequence[str], variables: Mapping[str, str]) -> list[str]:
        assert self._network is not None
        service = self._project["services"][name]
        tree = self._trees[service["image"].rpartition("/")[2].partition(":")[0]]
        secrets = self._folder / f"{name}-secrets"
        secrets.mkdir(exist_ok=True)
        for one in service.get("secrets") or []:
            target = secrets / (one.get("target") or one["source"]).rpartition("/")[2]
            target.write_text(self._secrets[one["source"]])
        environment = {
            "PATH": "/opt/parley/bin:/usr/bin:/bin", "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1",
            **{key: str(value) for key, value in (service.get("environment") or {}).items()},
            **variables,
        }  # fmt: skip
        bound = [(file, f"/run/secrets/{file.name}") for file in secrets.iterdir()]
        bound += [(self._volumes[one["target"]], one["target"]) for one in service.get("volumes") or []]
        binds = "".join(
            f"mkdir -p {target if source.is_dir() else '/run/secrets'} && "
            f"{'' if source.is_dir() else f'touch {target} && '}mount --bind -o ro {source} {target} && "
            for source, target in bound
        )
        mounts = (
            f"mount -t tmpfs tmpfs /opt && mkdir /opt/parley && mount --bind {tree.prefix} /opt/parley && "
            f"mount -t tmpfs tmpfs /run && {binds}"
            f"mount --bind {self._folder / 'hosts'} /etc/hosts && "
            'exec setpriv --reuid 1000 --regid 1000 --clear-groups --bounding-set -all --no-new-privs "$@"'
        )
        return [
            "nsenter", "--target", str(self._network.pid), "--net",
            "unshare", "--mount", "sh", "-c", mounts, "sh",
            "env", "-i", *(f"{key}={value}" for key, value in environment.items()), *words,
        ]  # fmt: skip

    def _wait_healthy(self, name: str) -> None:
        check = self._project["services"][name]["healthcheck"]
        assert check["test"][0] == "CMD"
        end = time.monotonic() + min(seconds(check["start_period"]), 60.0)
        while True:
            process = self._running[name]
            assert process.poll() is None, f"{name} ended: {self.log(name)[-3000:]}"
            done = self.run(name, *check["test"][1:])
            if done.returncode == 0:
                return
            assert time.monotonic() < end, (
                f"{name} is not healthy: {done.stderr[-300:]}\n{self.log(name)[-3000:]}"
            )
            time.sleep(0.1)
