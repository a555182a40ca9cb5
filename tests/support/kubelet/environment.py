"""The environment of a container, as Kubernetes makes it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tests.support.kube_api import Api, Object
from tests.support.kubelet.fields import field_of
from tests.support.kubelet.volumes import NotYet, read_keys

Server = tuple[str, int]


async def environment(
    api: Api,
    pod: Object,
    container: Object,
    image: Mapping[str, str],
    services: Sequence[Object],
    server: Server,
) -> dict[str, str]:
    """services: of the pod's namespace. server: the API server as pods reach it. Raises: NotYet."""
    namespace = pod["metadata"]["namespace"]
    made = {**image, "HOSTNAME": pod["metadata"]["name"]}
    made |= {"KUBERNETES_SERVICE_HOST": server[0], "KUBERNETES_SERVICE_PORT": str(server[1])}
    if pod["spec"].get("enableServiceLinks", True):
        made |= _links(services)
    for source in container.get("envFrom") or ():
        kind, plural = ("secretRef", "secrets") if "secretRef" in source else ("configMapRef", "configmaps")
        keys = await read_keys(api, plural, namespace, source[kind]["name"])
        if keys is None and not source[kind].get("optional"):
            raise NotYet(f"{plural[:-1]} {source[kind]['name']!r} not found")
        made |= {source.get("prefix", "") + key: value.decode() for key, value in (keys or {}).items()}
    for one in container.get("env") or ():
        value = await _value(api, pod, one)
        if value is not None:
            made[one["name"]] = expand(value, made)
    return made


def expand(text: str, environment: Mapping[str, str]) -> str:
    """$(NAME) becomes its value where there is one; $$(NAME) is $(NAME)."""

    def put(found: re.Match[str]) -> str:
        if found[0].startswith("$$"):
            return found[0][1:]
        return environment.get(found[1], found[0])

    return re.sub(r"\$?\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)", put, text)


async def _value(api: Api, pod: Object, one: Object) -> str | None:
    source = one.get("valueFrom")
    if source is None:
        return str(one.get("value", ""))
    if "fieldRef" in source:
        return field_of(pod, source["fieldRef"]["fieldPath"])
    kind, plural = (
        ("secretKeyRef", "secrets") if "secretKeyRef" in source else ("configMapKeyRef", "configmaps")
    )
    if kind not in source:
        raise NotYet(f"no value of {one['name']} can be made from {sorted(source)}")
    reference = source[kind]
    keys = await read_keys(api, plural, pod["metadata"]["namespace"], reference["name"])
    if keys is None or reference["key"] not in keys:
        if reference.get("optional"):
            return None
        raise NotYet(f"{plural[:-1]} {reference['name']!r} has no key {reference['key']!r}, or is not there")
    return keys[reference["key"]].decode()


def _links(services: Sequence[Object]) -> dict[str, str]:
    """Variables in the manner of Docker's links, which pods get unless they say no."""
    made = {}
    for service in services:
        address = service["spec"].get("clusterIP", "None")
        if address not in ("None", ""):
            name = service["metadata"]["name"].upper().replace("-", "_")
            port = service["spec"]["ports"][0]["port"]
            made[f"{name}_SERVICE_HOST"] = address
            made[f"{name}_SERVICE_PORT"] = str(port)
            made[f"{name}_PORT"] = f"tcp://{address}:{port}"
    return made
