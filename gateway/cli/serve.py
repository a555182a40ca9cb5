"""`parley serve`: one part as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
from typing import Any

from gateway.app import Gateway, Service, Speech, StandInLlm, run_loop, serve_forever
from gateway.cli.common import FAILED, OK, Fault, Help, address, load_settings
from gateway.settings import Settings
from gateway.settings_secrets import secrets_of
from gateway.telemetry.logs import setup_logging
from gateway.triton.errors import TritonError

_EPILOG = """\
examples:
  parley serve gateway --grpc 0.0.0.0:50050 --http 0.0.0.0:8080 --admin 10.0.0.5:8081
  parley serve gateway --workers 4           four processes behind the same addresses
  PARLEY_ASR__URI=riva:50051 PARLEY_TTS__KIND=riva PARLEY_TTS__URI=riva:50051 parley serve gateway
  parley serve speech --riva 0.0.0.0:50051 --triton triton:8001
  parley serve llm --listen 127.0.0.1:8090 --tokens-per-s 20

Everything else is a PARLEY_* setting. Ctrl-C or SIGTERM ends it: replies end first, a second one cuts.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)

    gateway = parts.add_parser(
        "gateway", help="parley.v1 over gRPC, OpenAI-compatible audio over HTTP", formatter_class=Help
    )
    gateway.add_argument("--grpc", type=address, metavar="ADDR", help="listen address of parley.v1")
    gateway.add_argument(
        "--http", type=address, metavar="ADDR", help="listen address of /v1/audio, /v1/models"
    )
    gateway.add_argument(
        "--admin",
        type=address,
        metavar="ADDR",
        help="listen address of /healthz, /readyz, /admitz, /metrics, /v1/sessions",
    )
    gateway.add_argument("--workers", type=int, metavar="N", help="processes behind these addresses (1)")
    gateway.add_argument("--worker", type=int, help=argparse.SUPPRESS)

    speech = parts.add_parser("speech", help="Riva ASR and TTS over a Triton's models", formatter_class=Help)
    speech.add_argument("--riva", type=address, metavar="ADDR", help="listen address of the Riva services")
    speech.add_argument(
        "--http", type=address, metavar="ADDR", help="listen address of /healthz, /readyz, /metrics"
    )
    speech.add_argument("--triton", type=address, metavar="ADDR", help="gRPC address of the Triton to use")

    llm = parts.add_parser("llm", help="the stand-in chat model", formatter_class=Help)
    llm.add_argument("--listen", type=address, metavar="ADDR", help="listen address")
    llm.add_argument("--first-token-ms", type=float, metavar="MS", help="delay before the first token")
    llm.add_argument(
        "--tokens-per-s", type=float, metavar="N", help="rate of the tokens; 0 is as fast as possible"
    )

    for part in (gateway, speech, llm):
        part.add_argument(
            "--insecure", action="store_true", help="listen on other than loopback without any credentials"
        )
        part.add_argument("--log-json", action="store_true", help="log lines as JSON")
        part.add_argument("--supervisor-fd", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    return run_loop(_serve(options))


async def _serve(options: argparse.Namespace) -> int:
    supervisor = None if options.supervisor_fd is None else socket.socket(fileno=options.supervisor_fd)
    if getattr(options, "worker", None) is not None:
        from gateway.cli.worker import serve_worker

        assert supervisor is not None, "a worker has a parent"
        _warm_up("gateway")
        return await serve_worker(options.worker, supervisor, log_json=options.log_json)
    overrides = _overrides(options)
    stop = asyncio.Event()
    if supervisor is None:
        settings = load_settings(**overrides)
    else:
        _warm_up(options.part)
        reader, writer = await asyncio.open_unix_connection(sock=supervisor)
        line = await reader.readline()
        if not line:
            return OK  # nobody wants us any more
        overrides |= json.loads(line)
        settings = load_settings(**overrides)
        hanging_up = asyncio.create_task(_stop_at_eof(reader, stop))
    setup_logging(
        settings.log_level, form="json" if options.log_json else "text", secrets=secrets_of(settings)
    )
    service: Service
    if options.part == "gateway" and settings.listen.workers > 1:
        from gateway.cli.workers import Workers

        service = Workers(settings, overrides, log_json=options.log_json)
    else:
        service = build(options.part, settings)

    def on_ready(endpoints: dict[str, str]) -> None:
        if supervisor is not None:
            writer.write(json.dumps(endpoints).encode() + b"\n")
        else:
            where = "  ".join(f"{key} {value}" for key, value in endpoints.items())
            print(f"parley {options.part} is ready: {where}", flush=True)

    try:
        await serve_forever(service, on_ready, stop)
    except asyncio.CancelledError:
        return FAILED  # a second signal: cut short
    except (OSError, TritonError) as error:
        raise Fault(str(error)) from None
    finally:
        if supervisor is not None:
            hanging_up.cancel()
            writer.close()
    return OK


def build(part: str, settings: Settings) -> Service:
    if part == "gateway":
        return Gateway(settings)
    return Speech(settings) if part == "speech" else StandInLlm(settings)


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    chosen: dict[str, dict[str, Any]] = {}

    def choose(section: str, key: str, value: object) -> None:
        if value is not None:
            chosen.setdefault(section, {})[key] = value

    if options.part == "gateway":
        choose("listen", "grpc", options.grpc)
        choose("listen", "http", options.http)
        choose("listen", "admin", options.admin)
        choose("listen", "workers", options.workers)
    elif options.part == "speech":
        choose("listen", "riva", options.riva)
        choose("listen", "speech_http", options.http)
        choose("triton", "uri", options.triton)
    else:
        choose("listen", "llm", options.listen)
        choose("stand_in", "first_token_ms", options.first_token_ms)
        choose("stand_in", "tokens_per_s", options.tokens_per_s)
    choose("auth", "insecure", options.insecure or None)
    return chosen


def _warm_up(part: str) -> None:
    """Import what the part needs while its supervisor still starts the parts before it."""
    if part == "gateway":
        import gateway.listen.riva_asr
        import gateway.listen.silero
        import gateway.openai_audio.app
        import gateway.session.manager
        import gateway.speak.factory
        import gateway.think.openai_llm
        import gateway.transports.http
        import gateway.transports.voice_grpc
    elif part == "speech":
        import gateway.riva.server
    else:
        import gateway.think.stand_in  # noqa: F401


async def _stop_at_eof(reader: asyncio.StreamReader, stop: asyncio.Event) -> None:
    """The supervisor's end of the socket closes with it, even when it is killed."""
    while await reader.read(4096):
        pass
    stop.set()
