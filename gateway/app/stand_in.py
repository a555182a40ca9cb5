"""The stand-in LLM as a service."""

from __future__ import annotations

from datetime import datetime

from gateway.app.address import split_address
from gateway.settings import Settings
from gateway.telemetry.http_server import HttpServer, serve_http


class StandInLlm:
    """The stand-in chat model over HTTP."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: HttpServer | None = None
        self._base_url = ""

    async def start(self) -> None:
        from gateway.think.stand_in import build_app

        app = build_app(self._settings.stand_in, now=lambda: datetime.now().astimezone())
        host, port = split_address(self._settings.listen.llm)
        self._server = serve_http(app, host, port)
        self._base_url = f"http://{host}:{await self._server.start()}/v1"

    def endpoints(self) -> dict[str, str]:
        return {"llm": self._base_url}

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()
