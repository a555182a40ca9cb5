"""Proxies by name, made, struck and healed over HTTP beside the emulators' other orders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from load.emulators.control import body_of, refused
from load.emulators.faults import BadOrder, number
from load.emulators.proxied import Weather
from load.emulators.proxy import Proxy

ANY = "127.0.0.1:0"
_FIELDS: dict[str, tuple[str, ...]] = {
    "latency": ("latency_ms", "jitter_ms", "for_s"),
    "bandwidth": ("kbps", "for_s"),
    "half_open": ("for_s",),
    "refuse": ("for_s",),
    "down": ("for_s",),
    "reset": (),
    "vanish": (),
    "slow_close": ("after_s",),
}
"""Kinds of fault, and what each may be given."""
_MOST: dict[str, float] = {
    "latency_ms": 60_000,
    "jitter_ms": 60_000,
    "kbps": 1e7,
    "for_s": 3_600,
    "after_s": 3_600,
}


class Proxies:
    """Must be made on the event loop that serves them."""

    def __init__(self) -> None:
        self._proxies: dict[str, Proxy] = {}

    def routes(self) -> list[web.RouteDef]:
        """Every refusal is a 400 (404: no such proxy) with one sentence in `error`."""
        return [
            web.get("/proxies", self._show),
            web.post("/proxies", self._make),
            web.post("/proxies/{name}/fault", self._fault),
            web.delete("/proxies/{name}/fault", self._heal),
        ]

    async def close(self) -> None:
        """All of them, at once."""
        proxies, self._proxies = self._proxies, {}
        for proxy in proxies.values():
            await proxy.close()

    async def make(self, name: str, upstream: str, address: str = ANY) -> str:
        """Returns where it listens. Raises BadOrder for a name in use; OSError."""
        if name in self._proxies:
            raise BadOrder(f"there is a proxy {name} already: choose another name")
        proxy = Proxy(upstream, address, seed=len(self._proxies) + 1)
        self._proxies[name] = proxy
        try:
            return await proxy.open()
        except OSError:
            del self._proxies[name]
            raise

    async def strike(self, name: str, raw: Mapping[str, Any]) -> int:
        """{"kind", …}. Returns how many connections were open. Raises: BadOrder, KeyError."""
        proxy = self._proxies[name]
        kind = raw.get("kind")
        if kind not in _FIELDS:
            raise BadOrder(f"kind is {kind!r}: send one of {', '.join(_FIELDS)}")
        if unknown := set(raw) - {"kind", *_FIELDS[kind]}:
            known = ", ".join(_FIELDS[kind]) or "nothing else"
            raise BadOrder(f"{kind} takes {known}, and not {', '.join(sorted(unknown))}")
        values = {field: number(raw, field, 0.0, most=_MOST[field]) for field in _FIELDS[kind]}
        return await _apply(proxy, str(kind), values)

    async def _show(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                name: {
                    "address": proxy.address,
                    "upstream": proxy.upstream,
                    "connections": proxy.connections,
                    "accepted": proxy.accepted,
                    "passed": proxy.passed,
                    "delayed": proxy.delayed,
                    "listening": proxy.listening,
                }
                for name, proxy in self._proxies.items()
            }
        )

    async def _make(self, request: web.Request) -> web.Response:
        try:
            body = await body_of(request)
            name, upstream = _text(body, "name"), _text(body, "upstream")
            address = await self.make(name, upstream, str(body.get("address", ANY)))
        except (BadOrder, OSError) as error:
            return refused(error)
        return web.json_response({"name": name, "address": address})

    async def _fault(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        try:
            return web.json_response(
                {"ok": True, "connections": await self.strike(name, await body_of(request))}
            )
        except BadOrder as error:
            return refused(error)
        except KeyError:
            return refused(_unknown(name), 404)

    async def _heal(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._proxies:
            return refused(_unknown(name), 404)
        await self._proxies[name].up()
        return web.json_response({"ok": True})


async def _apply(proxy: Proxy, kind: str, values: Mapping[str, float]) -> int:
    count = proxy.connections
    match kind:
        case "latency":
            proxy.set_weather(Weather(values["latency_ms"], values["jitter_ms"]), values["for_s"])
        case "bandwidth":
            if not values["kbps"]:
                raise BadOrder("bandwidth needs kbps above 0")
            proxy.set_weather(Weather(kbps=values["kbps"]), values["for_s"])
        case "half_open":
            proxy.set_weather(Weather(standstill=True), values["for_s"])
        case "refuse":
            proxy.refuse(values["for_s"])
        case "down":
            await proxy.down(values["for_s"])
        case "slow_close":
            proxy.slow_close(values["after_s"])
        case "vanish":
            proxy.vanish()
        case _:
            proxy.reset()
    return count


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise BadOrder(f"{name} is {value!r}: send a text")
    return value


def _unknown(name: str) -> BadOrder:
    return BadOrder(f"there is no proxy {name}: make it first, with POST /proxies")
