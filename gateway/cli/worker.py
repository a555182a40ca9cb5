"""One of several gateway processes behind the same addresses: what runs in it beside the gateway.

Its parent (`workers.py`) tells it its settings, asks for what the HTTP pages show, and hears which
sessions are open, so that a session opened again in another process is replaced.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from gateway.app import Gateway, serve_forever
from gateway.cli.common import FAILED, OK, Fault, load_settings
from gateway.cli.link import Link, Message, open_link
from gateway.cli.worker_limits import ParentCounts
from gateway.settings_secrets import secrets_of
from gateway.telemetry.logs import setup_logging
from gateway.telemetry.merge import dump

_LAST_WORDS_S = 1.0


async def serve_worker(number: int, end: socket.socket, *, log_json: bool) -> int:
    """Until SIGTERM, or until the parent is gone. end: the worker's of the socket pair."""
    link = await open_link(end)
    told = await link.receive()
    if told is None:
        return OK  # nobody wants us any more
    listening: asyncio.Task[None] | None = None
    gateway: Gateway | None = None
    try:
        settings = load_settings(**told["settings"])
        setup_logging(
            settings.log_level,
            form="json" if log_json else "text",
            secrets=secrets_of(settings),
            worker=str(number),
        )
        counting = ParentCounts(link)
        gateway = Gateway(settings, others=_Announcer(link), counting=counting)
        stop = asyncio.Event()
        listening = asyncio.create_task(_listen(link, gateway, counting, stop))
        await serve_forever(gateway, lambda endpoints: link.send({"ready": endpoints}), stop)
    except asyncio.CancelledError:
        return FAILED  # a second signal: cut short
    except (Fault, OSError) as error:
        link.send({"failed": str(error)})
        return FAILED
    finally:
        if listening is not None:
            listening.cancel()
        if gateway is not None and gateway.grpc:
            link.send({"metrics": dump(gateway.metrics)})
        await link.sent(_LAST_WORDS_S)
    return OK


class _Announcer:
    """Tells the parent which sessions are open."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def opened(self, session_id: str, serial: int) -> None:
        self._link.send({"opened": session_id, "serial": serial})

    def closed(self, session_id: str, serial: int) -> None:
        self._link.send({"closed": session_id, "serial": serial})


async def _listen(link: Link, gateway: Gateway, counting: ParentCounts, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        while (message := await link.receive()) is not None:
            if "replace" in message:
                gateway.sessions.replace(message["replace"], message["serial"])
            elif "entered" in message:
                counting.on_answer(message)
            elif "ask" in message:
                group.create_task(_answer(link, gateway, message))
        stop.set()


async def _answer(link: Link, gateway: Gateway, message: Message) -> None:
    value: Any = None
    match message["what"]:
        case "parts":
            value = await gateway.shown.parts()
        case "admitting":
            value = await gateway.shown.admitting()
        case "sessions":
            value = await gateway.shown.sessions()
        case "metrics":
            value = dump(gateway.metrics)
        case "drain":
            await gateway.drain.done()
            value = True
        case "ping":
            value = True
    link.send({"answer": message["ask"], "value": value})
