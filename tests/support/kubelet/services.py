"""Services of one node: cluster addresses that lead to ready pods, and a DNS server that knows the names."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from tests.support.kube_api import Api, Object
from tests.support.kubelet.network import GATEWAY, Network
from tests.support.kubelet.relay import Relay

Address = tuple[str, int]
"""host, port."""
_A, _AAAA, _OK, _UNKNOWN = 1, 28, 0, 3
_TTL_S = 1
SUFFIX = ".svc.cluster.local"


@dataclass
class Endpoints:
    """Of one service; kept true by `Services`."""

    ready: dict[str, list[Address]] = field(default_factory=dict)
    """By the name of the port."""
    hosts: list[str] = field(default_factory=list)
    """What a headless service's name resolves to."""


class Services:
    """Watches Services and EndpointSlices; what it knows is at most a watch event old, as with kube-proxy."""

    def __init__(self, api: Api, network: Network, server: Address) -> None:
        """server: where the API server really listens, outside the node's network."""
        self._api, self._network, self._server = api, network, server
        self._services: dict[str, Object] = {}
        self._slices: dict[str, dict[str, Object]] = {}
        self._relays: dict[str, list[Relay]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._dns: asyncio.DatagramTransport | None = None
        self._changed = asyncio.Condition()

    async def until(self, holds: Callable[[], bool], within_s: float = 20.0) -> None:
        """What is known of services and endpoints satisfies `holds`. Raises: TimeoutError."""
        async with asyncio.timeout(within_s), self._changed:
            await self._changed.wait_for(holds)

    async def start(self) -> None:
        listener = self._network.new_socket(socket.SOCK_DGRAM)
        listener.bind((GATEWAY, 53))
        loop = asyncio.get_running_loop()
        self._dns, _ = await loop.create_datagram_endpoint(lambda: _Dns(self.resolve), sock=listener)
        self._tasks = [
            asyncio.create_task(self._watch_services()),
            asyncio.create_task(self._watch_endpoints()),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for key in list(self._relays):
            await self._close_relays(key)
        if self._dns is not None:
            self._dns.close()

    def of_namespace(self, namespace: str) -> list[Object]:
        return [one for one in self._services.values() if one["metadata"]["namespace"] == namespace]

    def endpoints(self, key: str) -> Endpoints:
        """key: "namespace/service"."""
        found, service = Endpoints(), self._services.get(key, {})
        all_of_them = service.get("spec", {}).get("publishNotReadyAddresses", False)
        for one in self._slices.get(key, {}).values():
            for endpoint in one.get("endpoints") or ():
                if endpoint.get("conditions", {}).get("ready", True) or all_of_them:
                    host = endpoint["addresses"][0]
                    found.hosts.append(host)
                    for port in one.get("ports") or ():
                        found.ready.setdefault(port.get("name") or "", []).append((host, port["port"]))
        return found

    def resolve(self, name: str) -> list[str] | None:
        """The addresses of "service.namespace.svc.cluster.local"; None when there is no such service."""
        if not name.endswith(SUFFIX):
            return None
        *pod, service, namespace = name.removesuffix(SUFFIX).split(".")[-3:] if "." in name else ("", "")
        found = self._services.get(f"{namespace}/{service}")
        if found is None or pod:
            return None
        address = found["spec"].get("clusterIP", "None")
        return self.endpoints(f"{namespace}/{service}").hosts if address == "None" else [address]

    async def _watch_services(self) -> None:
        async for event, one in self._api.watch("/api/v1/services"):
            key = _key(one)
            if event == "DELETED":
                self._services.pop(key, None)
                await self._close_relays(key)
                continue
            known = self._services.get(key)
            self._services[key] = one
            if known is None or known["spec"] != one["spec"]:
                await self._close_relays(key, known)
                await self._open_relays(key, one)

    async def _watch_endpoints(self) -> None:
        async for event, one in self._api.watch("/apis/discovery.k8s.io/v1/endpointslices"):
            service = one["metadata"].get("labels", {}).get("kubernetes.io/service-name", "")
            slices = self._slices.setdefault(f"{one['metadata']['namespace']}/{service}", {})
            if event == "DELETED":
                slices.pop(one["metadata"]["name"], None)
            else:
                slices[one["metadata"]["name"]] = one
            async with self._changed:
                self._changed.notify_all()

    async def _open_relays(self, key: str, service: Object) -> None:
        address = service["spec"].get("clusterIP", "None")
        if address in ("None", ""):
            return
        await self._network.claim(address)
        relays = self._relays[key] = []
        for port in service["spec"]["ports"]:
            relay = Relay(partial(self._dial, key, port.get("name") or ""))
            listener = self._network.new_socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port["port"]))
            await relay.start(listener)
            relays.append(relay)

    async def _close_relays(self, key: str, service: Object | None = None) -> None:
        for relay in self._relays.pop(key, ()):
            await relay.close()
        if service is not None and service["spec"].get("clusterIP", "None") not in ("None", ""):
            await self._network.disclaim(service["spec"]["clusterIP"])

    async def _dial(self, key: str, port: str) -> socket.socket:
        if key == "default/kubernetes":
            made = socket.socket()
            made.setblocking(False)
            await asyncio.get_running_loop().sock_connect(made, self._server)
            return made
        ready = self.endpoints(key).ready.get(port)
        if not ready:
            raise ConnectionRefusedError(f"service {key} has no ready endpoint")
        return await self._network.connect(*random.choice(ready))


class _Dns(asyncio.DatagramProtocol):
    """Answers for addresses (A), and that there are none of IPv6; RFC 1035 §4."""

    def __init__(self, resolve: Callable[[str], list[str] | None]) -> None:
        self._resolve = resolve
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: Address) -> None:
        assert self._transport is not None
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode("ascii", "replace"))
            at += 1 + data[at]
        question = data[12 : at + 5]
        (kind,) = struct.unpack_from("!H", data, at + 1)
        hosts = self._resolve(".".join(labels).lower())
        records = [
            b"\xc0\x0c" + struct.pack("!HHIH4s", _A, 1, _TTL_S, 4, socket.inet_aton(host))
            for host in hosts or ()
            if kind == _A
        ]
        flags = 0x8580 | (_UNKNOWN if hosts is None else _OK)
        header = data[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0)
        self._transport.sendto(header + question + b"".join(records), address)


def _key(one: Object) -> str:
    return f"{one['metadata']['namespace']}/{one['metadata']['name']}"
