"""The stand-in LLM as a service."""

from __future__ import annotations

from datetime import datetime

from gateway.app.exposure import warn_exposure
from gateway.app.listeners import listen_http
from gateway.settings import Settings
from gateway.telemetry.http_server import HttpServer


class StandInLlm:
    """The stand-in chat model over HTTP."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: HttpServer | None = None
        self._base_url = ""

    async def start(self) -> None:
        await warn_exposure(self._settings, ("llm",))
        from gateway.think.stand_in import build_app

        app = build_app(self._settings.stand_in, now=lambda: datetime.now().astimezone())
        self._server, url = await listen_http(
            app, self._settings.listen.llm, self._settings, "the stand-in LLM"
        )
        self._base_url = f"{url}/v1"

    def endpoints(self) -> dict[str, str]:
        return {"llm": self._base_url}

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()
