"""The emulators' control over HTTP: what they count, what they do, and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from load.emulators.distributions import BadProfile
from load.emulators.faults import BadOrder, Faults, Part, number, part_of
from load.emulators.ports import Port
from load.emulators.stats import Stats


class Control:
    """Routes of the control port; every refusal is a 400 with one sentence in `error`."""

    def __init__(
        self,
        stats: Stats,
        faults: Faults,
        ports: Mapping[Part, Port],
        change: Callable[[Mapping[str, Any]], None],
        voice: Callable[[], str],
    ) -> None:
        """change: takes a partial profile; raises BadProfile. voice: the model that speaks."""
        self._stats = stats
        self._faults = faults
        self._ports = ports
        self._change = change
        self._voice = voice

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/stats", self._show),
            web.get("/metrics", self._metrics),
            web.post("/profile", self._profile),
            web.post("/fault", self._fault),
            web.delete("/fault", self._no_faults),
            web.post("/cut", self._cut),
            web.post("/restart", self._restart),
        ]

    async def _show(self, _: web.Request) -> web.Response:
        shown = self._stats.as_dict()
        for part, port in self._ports.items():
            shown[part] |= {"listening": port.listening, "faults": self._faults.struck[part]}
        return web.json_response(shown)

    async def _metrics(self, _: web.Request) -> web.Response:
        """What Parley's own voices report on Triton's page."""
        tts, model = self._stats.tts, self._voice()
        lines = (
            f'parley_tts_chunks_total{{model="{model}"}} {tts.chunks}',
            f'parley_tts_chunks_after_cancel_total{{model="{model}"}} {tts.chunks_after_cancel}',
            f'parley_tts_cancelled_total{{model="{model}",how="in-band"}} {tts.cancelled - tts.vanished}',
            f'parley_tts_cancelled_total{{model="{model}",how="vanished"}} {tts.vanished}',
        )
        return web.Response(text="\n".join(lines) + "\n")

    async def _profile(self, request: web.Request) -> web.Response:
        try:
            self._change(await body_of(request))
        except (BadOrder, BadProfile) as error:
            return refused(error)
        return web.json_response({"ok": True})

    async def _fault(self, request: web.Request) -> web.Response:
        try:
            self._faults.order(await body_of(request))
        except BadOrder as error:
            return refused(error)
        return web.json_response({"ok": True})

    async def _no_faults(self, _: web.Request) -> web.Response:
        self._faults.clear()
        return web.json_response({"ok": True})

    async def _cut(self, request: web.Request) -> web.Response:
        try:
            port = self._ports[part_of(await body_of(request))]
        except BadOrder as error:
            return refused(error)
        return web.json_response({"ok": True, "cut": port.cut()})

    async def _restart(self, request: web.Request) -> web.Response:
        """Answers when the port is closed; `/stats` says when it listens again."""
        try:
            body = await body_of(request)
            port, down_s = self._ports[part_of(body)], number(body, "down_s", 0.0, most=3_600)
        except BadOrder as error:
            return refused(error)
        await port.restart(down_s)
        return web.json_response({"ok": True})


async def body_of(request: web.Request) -> Mapping[str, Any]:
    """A JSON object. Raises: BadOrder."""
    try:
        body = json.loads(await request.read())
    except ValueError:
        raise BadOrder("the body is not JSON") from None
    if not isinstance(body, dict):
        raise BadOrder("the body must be a JSON object")
    return body


def refused(error: Exception, status: int = 400) -> web.Response:
    return web.json_response({"error": str(error)}, status=status)
