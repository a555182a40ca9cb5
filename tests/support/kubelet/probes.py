"""Probes and hooks, as a kubelet runs them."""

from __future__ import annotations

import asyncio
import ssl

from tests.support.kube_api import Object
from tests.support.kubelet.container import Container
from tests.support.kubelet.network import Network

_NO_PROOF = ssl.create_default_context()
_NO_PROOF.check_hostname = False
_NO_PROOF.verify_mode = ssl.CERT_NONE  # a kubelet takes any certificate


def port_of(container: Object, port: int | str) -> int:
    """Raises: KeyError for a name that the container does not have."""
    if isinstance(port, int):
        return port
    named = {one.get("name"): one["containerPort"] for one in container.get("ports") or ()}
    return int(named[port])


async def ask(action: Object, spec: Object, container: Container, network: Network, host: str) -> str:
    """One probe or hook: "" when it succeeded, else what went wrong. spec: of the container."""
    within_s = float(action.get("timeoutSeconds", 1))
    try:
        async with asyncio.timeout(within_s):
            if "exec" in action:
                code, said = await container.run(action["exec"]["command"], within_s=within_s)
                return "" if code == 0 else f"exit code {code}: {said.strip()[-300:]}"
            if "sleep" in action:
                await asyncio.sleep(action["sleep"]["seconds"])
                return ""
            if "tcpSocket" in action:
                (await network.connect(host, port_of(spec, action["tcpSocket"]["port"]))).close()
                return ""
            if "httpGet" in action:
                return await _get(action["httpGet"], spec, network, host)
            raise AssertionError(f"this kubelet cannot probe by {sorted(action)}")
    except TimeoutError:
        return f"no answer in {within_s:g} s"
    except (OSError, asyncio.IncompleteReadError) as error:
        return f"{type(error).__name__}: {error}"


async def _get(action: Object, spec: Object, network: Network, host: str) -> str:
    port = port_of(spec, action["port"])
    secure = action.get("scheme") == "HTTPS"
    reader, writer = await asyncio.open_connection(
        sock=await network.connect(action.get("host", host), port),
        ssl=_NO_PROOF if secure else None,
        server_hostname="" if secure else None,
    )
    try:
        path = action.get("path", "/")
        more = "".join(f"{one['name']}: {one['value']}\r\n" for one in action.get("httpHeaders") or ())
        head = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: kube-probe/1.36\r\n{more}Connection: close\r\n\r\n"
        writer.write(head.encode())
        status = (await reader.readline()).decode(errors="replace").split()
        rest = (await reader.read(8_192)).decode(errors="replace")
    finally:
        writer.transport.abort()
    if len(status) > 1 and status[1].isdigit() and 200 <= int(status[1]) < 400:
        return ""
    return f"{path}: {' '.join(status)}: {rest.partition(chr(13) + chr(10) * 2)[2][-300:]}"
