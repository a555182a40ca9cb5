"""`parley up`: the whole stack in one terminal."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from gateway.cli import endpoints
from gateway.cli.common import OK, address, load_settings, run, stop_event, unless
from gateway.cli.stack import Stack

_EPILOG = """\
examples:
  parley up
  parley up --endpoints /tmp/parley.json      written once everything is ready
  PARLEY_LLM__BASE_URL=http://127.0.0.1:11434/v1 PARLEY_LLM__MODEL=llama3.2 parley up

A port that is taken is replaced by a free one, and said. Another LLM, ASR or TTS named in the
settings is used in place of the one that comes with Parley. Ctrl-C ends everything.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("--grpc", type=address, metavar="ADDR", help="parley.v1 (default 127.0.0.1:50050)")
    parser.add_argument(
        "--riva", type=address, metavar="ADDR", help="Riva services (default 127.0.0.1:50051)"
    )
    parser.add_argument("--http", type=address, metavar="ADDR", help="HTTP (default 127.0.0.1:8080)")
    parser.add_argument(
        "--admin", type=address, metavar="ADDR", help="readiness, metrics (default 127.0.0.1:8081)"
    )
    parser.add_argument(
        "--speech-http",
        type=address,
        metavar="ADDR",
        help="HTTP of the speech process (default 127.0.0.1:8082)",
    )
    parser.add_argument("--llm", type=address, metavar="ADDR", help="stand-in LLM (default 127.0.0.1:8090)")
    parser.add_argument("--models", metavar="A,B", help="further models to load at start")
    parser.add_argument(
        "--repository",
        action="append",
        metavar="DIR",
        help="model repository, a folder or an s3://, gs:// or as:// URL; may be given again",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="listen on other than loopback without any credentials"
    )
    parser.add_argument("--endpoints", type=Path, metavar="FILE", help="write the addresses here, as JSON")
    parser.add_argument("--plain", action="store_true", help="plain lines also on a terminal")
    parser.set_defaults(run=lambda options: run(_up(options)))


async def _up(options: argparse.Namespace) -> int:
    settings = load_settings(**_overrides(options))
    status = Status(plain=options.plain)
    stack = Stack(settings, status.say)
    paths = [endpoints.default_path()] + ([options.endpoints] if options.endpoints is not None else [])
    stopping = stop_event()
    began = time.monotonic()
    try:
        with status:
            starting = asyncio.create_task(stack.start())
            if not await unless(stopping, starting):
                return OK
            for path in paths:
                endpoints.write(path, stack.endpoints)
            status.ready(stack, time.monotonic() - began)
            watching = asyncio.create_task(stack.watch())
            showing = asyncio.create_task(status.follow(stack))
            try:
                await unless(stopping, watching)
            finally:
                for task in (watching, showing):
                    task.cancel()
                await asyncio.gather(watching, showing, return_exceptions=True)
            status.say("stopping")
    finally:
        for path in paths:
            endpoints.remove(path, stack.endpoints)
        await stack.stop()
    return OK


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    listen = {key: getattr(options, key) for key in ("grpc", "riva", "http", "admin", "speech_http", "llm")}
    triton = {"repositories": options.repository}
    ahead = [name.strip() for name in (options.models or "").split(",") if name.strip()]
    chosen: dict[str, dict[str, Any]] = {
        "listen": listen,
        "triton": triton,
        "models": {"preload": ahead or None},
        "auth": {"insecure": options.insecure or None},
    }
    return {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in chosen.items()
    }


class Status:
    """A table that stays in place on a terminal; lines elsewhere."""

    def __init__(self, *, plain: bool) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        if self._console.is_terminal and not plain:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Status:
        if self._live is not None:
            self._live.start()
        self.say("starting")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, sentence: str) -> None:
        self._console.print(f"[dim]{time.strftime('%H:%M:%S')}[/]  ", end="")
        self._console.print(sentence, markup=False)

    def ready(self, stack: Stack, seconds: float) -> None:
        self.say(f"ready after {seconds:.1f} s")
        if self._live is not None:
            self._live.update(self._table(stack, None), refresh=True)
            return
        for key in endpoints.KEYS:
            print(f"  {key:<15} {stack.endpoints[key]}", flush=True)
        print(f"  logs            {stack.log_dir}", flush=True)
        print("talk to it:  parley talk --mic   (or --wav, --text; Ctrl-C here ends everything)", flush=True)

    async def follow(self, stack: Stack) -> None:
        """Refresh the table until cancelled."""
        while self._live is not None:
            self._live.update(self._table(stack, await stack.sessions()), refresh=True)
            await asyncio.sleep(2.0)

    def _table(self, stack: Stack, sessions: int | None) -> Table:
        table = Table(box=None, pad_edge=False, caption_justify="left")
        for title in ("part", "address", "process", "restarts"):
            table.add_column(title, no_wrap=True)
        triton = stack.triton
        if triton is not None:
            table.add_row("triton_grpc", triton.grpc, _alive(triton.pid), str(triton.restarts))
            table.add_row("triton_http", triton.http)
        for child in stack.children:
            for number, (key, where) in enumerate(child.endpoints.items()):
                about = (_alive(child.pid), str(child.restarts)) if number == 0 else ()
                table.add_row(key, where, *about)
        if not stack.own_llm:
            table.add_row("llm", stack.endpoints["llm"], "not ours")
        open_now = "" if sessions is None else f"{sessions} session{'' if sessions == 1 else 's'} open · "
        table.caption = f"{open_now}logs in {stack.log_dir} · parley talk --mic talks to it · Ctrl-C ends it"
        return table


def _alive(pid: int) -> str:
    return str(pid) if pid else "[red]down[/]"
