"""One container as a process: mount, PID, IPC and host name namespaces of its own in its pod's network, a root of its
own, another user, no capabilities. Memory and CPU limits are not imposed.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.kubelet.images import SYSTEM, Image
from tests.support.processes import children

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_TOOLS = "/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Mount:
    source: Path | None
    """None: a tmpfs of its own."""
    target: str
    read_only: bool = False
    size: str = ""
    """Of a tmpfs, as mount(8) has it."""


@dataclass(frozen=True)
class Plan:
    """What is to run."""

    name: str
    image: Image
    argv: Sequence[str]
    environment: Mapping[str, str]
    network: Path
    host_name: str
    mounts: Sequence[Mount]
    etc: Path
    """Folder with the pod's hosts, resolv.conf, passwd …"""
    user: int
    group: int
    groups: Sequence[int]
    read_only: bool
    capabilities: bool
    """Whether it keeps any."""
    new_privileges: bool
    folder: str
    log: Path
    root: Path
    """An empty folder to mount the root on."""


@dataclass
class Container:
    """A started one. `await wait()` gives its exit code, 128 + n for signal n."""

    plan: Plan
    process: asyncio.subprocess.Process
    pid: int = 0
    """Of its first process, as the host sees it; 0 once it ended."""
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> int:
        code = await self.process.wait()
        self.pid = 0
        self._ended.set()
        return 128 - code if code < 0 else code

    async def gone(self) -> None:
        """For whoever is not the one that waits for the code."""
        await self._ended.wait()

    def signal(self, number: signal.Signals) -> None:
        if self.pid:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    async def run(
        self, argv: Sequence[str], *, within_s: float, environment: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """A further process in it, as `kubectl exec`: exit code and output. Raises: TimeoutError, OSError."""
        if not self.pid:
            raise ProcessLookupError(f"{self.plan.name} does not run")
        inside = [
            *_as_user(self.plan),
            *_with(self.plan, {**self.plan.environment, **(environment or {})}),
            *argv,
        ]
        process = await asyncio.create_subprocess_exec(
            "nsenter", "-t", str(self.pid), "-m", "-p", "-n", "-i", "-u", "-r", "-w", "--", *inside,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={"PATH": _TOOLS}, start_new_session=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(within_s):
                said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return process.returncode or 0, said.decode(errors="replace")


async def start(plan: Plan) -> Container:
    """Raises: OSError when it cannot be started; what fails later is in its log."""
    plan.root.mkdir(parents=True, exist_ok=True)
    # Killed with the thread that asked for it: no container outlives the tests.
    command = [
        "setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={plan.network}", "--",
        "unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "/bin/sh", "-c", _script(plan),
    ]  # fmt: skip
    with plan.log.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": _TOOLS},
            start_new_session=True,
        )
    container = Container(plan, process)
    container.pid = await _first_child(process)
    return container


async def _first_child(process: asyncio.subprocess.Process) -> int:
    """`unshare` tells nobody which process it made."""
    while process.returncode is None:
        found = children(process.pid)
        if found:
            return found[0]
        await asyncio.sleep(0.002)
    return 0


def _script(plan: Plan) -> str:
    root = shlex.quote(str(plan.root))
    lines = [
        "set -e",
        f"hostname {shlex.quote(plan.host_name)}",
        "mount --make-rprivate /",
        f"mount -t tmpfs -o mode=755 root {root}",
        f"cd {root}",
        "mkdir -p proc dev sys tmp etc run var",
        "chmod 1777 tmp",
    ]
    for path in SYSTEM:
        here = Path(path)
        if here.is_symlink():
            lines.append(f"ln -s {shlex.quote(os.readlink(here))} .{path}")
        elif here.is_dir():
            lines += _bind(here, path, read_only=True)
    lines.append(f"cp -r {shlex.quote(str(plan.etc))}/. etc/")
    lines += ["for f in ld.so.cache localtime; do [ ! -e /etc/$f ] || cp -L /etc/$f etc/$f; done"]
    for target, source in sorted(plan.image.binds.items()):
        lines += _bind(source, target, read_only=True)
    lines += ["mount -t tmpfs -o mode=755 dev dev", "mkdir -m 1777 dev/shm", "ln -s /proc/self/fd dev/fd"]
    for device in _DEVICES:
        lines += [f"touch dev/{device}", f"mount --bind /dev/{device} dev/{device}"]
    lines += ["for n in 0:in 1:out 2:err; do ln -s /proc/self/fd/${n%%:*} dev/std${n##*:}; done"]
    lines += ["mount -t tmpfs -o mode=1777,size=64m shm dev/shm", "mount -t proc proc proc"]
    lines += ["mount --bind /sys sys", "mount -o remount,bind,ro sys"]
    for mount in sorted(plan.mounts, key=lambda one: one.target):
        if mount.source is None:
            target = shlex.quote(f".{mount.target}")
            lines += [
                f"mkdir -p {target}",
                f"mount -t tmpfs -o mode=1777,size={mount.size or '100%'} vol {target}",
            ]
        else:
            lines += _bind(mount.source, mount.target, read_only=mount.read_only)
    if plan.read_only:
        lines.append("mount -o remount,ro .")
    last = ["chroot", ".", *_as_user(plan), *_with(plan, plan.environment), *plan.argv]
    lines.append("exec " + " ".join(map(shlex.quote, last)))
    return "\n".join(lines)


def _bind(source: Path, target: str, *, read_only: bool) -> list[str]:
    here, there = shlex.quote(str(source)), shlex.quote(f".{target}")
    if source.is_dir():
        lines = [f"mkdir -p {there}"]
    else:
        lines = [f"mkdir -p $(dirname {there})", f"[ -e {there} ] || touch {there}"]
    lines.append(f"mount --bind {here} {there}")
    if read_only:
        lines.append(f"mount -o remount,bind,ro {there}")
    return lines


def _as_user(plan: Plan) -> list[str]:
    words = ["/usr/bin/setpriv", f"--reuid={plan.user}", f"--regid={plan.group}"]
    words.append(f"--groups={','.join(map(str, plan.groups))}" if plan.groups else "--clear-groups")
    if not plan.new_privileges:
        words.append("--no-new-privs")
    if not plan.capabilities:
        words += ["--inh-caps=-all", "--bounding-set=-all"]
    return words


def _with(plan: Plan, environment: Mapping[str, str]) -> list[str]:
    return [
        "/usr/bin/env",
        "-i",
        f"--chdir={plan.folder}",
        *(f"{key}={value}" for key, value in environment.items()),
    ]
