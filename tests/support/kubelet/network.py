"""A network of its own for one simulated node: a bridge, and a network namespace for each pod.

Nothing of it is seen outside, so that several may run on one machine. Sockets of the kubelet's own are made inside it
(`Network.new_socket`) and used from outside, which is how containers' runtimes forward ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

GATEWAY = "198.19.0.1"
"""The node's own address, its DNS server's too. The block is nobody's (RFC 2544)."""
_CLONE_NEWNET = 0x40000000
_FOLDER = Path("/run/netns")
_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """`start()`, `close()`. Needs root."""

    def __init__(self) -> None:
        self.node = f"parley-{os.getpid()}-{secrets.token_hex(2)}"
        self._pods: dict[str, str] = {}
        self._number = 1
        self._open = -1

    async def start(self) -> None:
        _clear_dead()
        await _ip(f"netns add {self.node}")
        await _ip(
            "link set lo up",
            "link add br0 type bridge",
            f"addr add {GATEWAY}/16 dev br0",
            "link set br0 up",
            within=self.node,
        )
        self._open = os.open(_FOLDER / self.node, os.O_RDONLY)

    async def close(self) -> None:
        for pod in list(self._pods):
            await self.remove(pod)
        if self._open >= 0:
            os.close(self._open)
            await _ip(f"netns del {self.node}")

    async def add(self, pod: str) -> tuple[str, Path]:
        """A namespace for this pod (any unique text): its address, and the file to enter it by."""
        self._number += 1
        number, name = self._number, f"{self.node}-{self._number}"
        self._pods[pod] = name
        address = f"198.19.{number // 250}.{number % 250 + 2}"
        await _ip(f"netns add {name}")
        await _ip(f"link add v{number} netns {self.node} type veth peer name eth0 netns {name}")
        await _ip(f"link set v{number} master br0 up", within=self.node)
        await _ip(
            "link set lo up",
            f"addr add {address}/16 dev eth0",
            "link set eth0 up",
            f"route add default via {GATEWAY}",
            within=name,
        )
        return address, _FOLDER / name

    async def remove(self, pod: str) -> None:
        name = self._pods.pop(pod, None)
        if name is not None:
            await _ip(f"netns del {name}")

    async def claim(self, address: str) -> None:
        """Have the node answer for a service's address."""
        await _ip(f"addr add {address}/32 dev br0", within=self.node)

    async def disclaim(self, address: str) -> None:
        await _ip(f"addr del {address}/32 dev br0", within=self.node)

    def new_socket(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """One that reaches pods and services; not blocking."""
        with self._inside():
            made = socket.socket(socket.AF_INET, kind)
        made.setblocking(False)
        return made

    async def connect(self, host: str, port: int) -> socket.socket:
        """Raises: OSError."""
        made = self.new_socket()
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(made, (host, port))
        except BaseException:
            made.close()
            raise
        return made

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        """This thread alone, for a moment in which nothing else of it runs."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(self._open)
            try:
                yield
            finally:
                _enter(home)
        finally:
            os.close(home)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


async def _ip(*lines: str, within: str = "") -> None:
    command = ["ip", *(["-n", within] if within else []), "-batch", "-"]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate("\n".join(lines).encode() + b"\n")
    assert process.returncode == 0, f"ip {lines}: {said.decode()}"


def _clear_dead() -> None:
    """Namespaces that killed test runs have left."""
    for left in _FOLDER.glob("parley-*-*") if _FOLDER.is_dir() else ():
        owner = left.name.split("-")[1]
        if owner.isdigit() and not Path("/proc", owner).exists():
            subprocess.run(["ip", "netns", "del", left.name], check=False, capture_output=True)
