"""`parley drain`: the preStop hook of a container with a gateway or a speech service."""

from __future__ import annotations

import argparse
import http.client
import json
import math
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from gateway.cli import endpoints
from gateway.cli.common import FAILED, OK, USAGE, Fault, api_key, complain, load_settings
from gateway.cli.drain_after import configure_after, directly, wait_for
from gateway.settings import Settings

_EPILOG = """\
examples:
  parley drain                                     the gateway of the running stack, or of PARLEY_LISTEN__ADMIN
  parley drain --admin http://127.0.0.1:8082       the speech service of this pod
  parley drain --admin http://127.0.0.1:8082 --after http://127.0.0.1:8081
                                                   the same, in one pod with its gateway, once that has ended
  parley drain triton                              a Triton: `parley drain triton --help`

From then on the process takes nothing new: readiness fails, gRPC health says NOT_SERVING. What is in progress ends,
sessions that nobody speaks in are closed so that their clients connect elsewhere, and after session.drain_s everything
is. SIGTERM, before or after, starts no other grace. Where credentials are asked for, it shows --api-key or
PARLEY_API_KEY (scope admin), else a token of this deployment, which auth.sealing_key makes.
exit codes: 0 nothing is left, or the time was over (it says what was left), or no process is there; 1 it was
refused or failed; 2 wrong usage.
"""
_ANSWER_S = 5.0
"""Beyond the wait that was asked for."""


def configure_process(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("--admin", metavar="URL", help="the process' address for operators")
    parser.add_argument(
        "--timeout", type=_seconds, default=60.0, metavar="S", help="longest wait, seconds (default: 60)"
    )
    parser.add_argument("--api-key", metavar="KEY", help="with the scope admin (default: PARLEY_API_KEY)")
    configure_after(parser)
    parser.set_defaults(
        run=lambda options: drain(options.admin, options.timeout, options.api_key, options.after)
    )


def drain(admin: str | None, timeout_s: float, key: str | None, after: str | None = None) -> int:
    """The exit code. Raises Fault."""
    settings = load_settings()
    timeout_s = wait_for(after, timeout_s, settings)
    url = (admin or endpoints.find("admin", default=_own(settings))).rstrip("/")
    parsed = urllib.parse.urlsplit(url)
    if parsed.scheme not in ("http", "https") or not parsed.hostname:
        raise Fault(f"{url!r} is no URL; write http://127.0.0.1:8081", USAGE)
    request = urllib.request.Request(f"{url}/drain?wait_s={timeout_s:g}", method="POST")
    if given := api_key(key) or _own_token(settings):
        request.add_header("authorization", f"Bearer {given}")
    context = _context(settings) if parsed.scheme == "https" else None
    began = time.monotonic()
    try:
        with directly(context).open(request, timeout=timeout_s + _ANSWER_S) as answer:
            found = json.load(answer)
            left, over = int(found["left"]), found["status"] == "drained"
    except urllib.error.HTTPError as error:
        raise Fault(f"{url} refused to drain: {_why(error)}") from None
    except (ValueError, LookupError, TypeError):
        raise Fault(f"{url} is no address of Parley's for operators: its answer makes no sense") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ConnectionRefusedError):
            print(f"nothing answers at {url}, nothing is left to drain")
            return OK
        if isinstance(reason, TimeoutError):
            complain(f"{url} has not answered within {timeout_s + _ANSWER_S:g} s")
            return FAILED
        if isinstance(reason, ssl.SSLError):
            raise Fault(f"no TLS connection with {url}: {reason}; check tls.cert") from None
        if isinstance(reason, socket.gaierror):
            raise Fault(f"{parsed.hostname} has no address: {reason}") from None
        print(f"the process at {url} ended while it drained")
        return OK
    took_s = time.monotonic() - began
    if over and not left:
        print(f"drained in {took_s:.1f} s: {url} has nothing left")
    else:
        print(f"not drained within {timeout_s:g} s: {left} left at {url}, which ends them with its grace")
    return OK


def _own(settings: Settings) -> str:
    """The gateway beside us, whatever address it listens on."""
    return (
        f"{'https' if settings.tls.admin else 'http'}://127.0.0.1:{settings.listen.admin.rpartition(':')[2]}"
    )


def _own_token(settings: Settings) -> str:
    if not settings.auth.sealing_key.get_secret_value():
        return ""
    from gateway.identity.client_secrets import Sealer

    return Sealer(settings.auth.sealing_key.get_secret_value()).own_token(time.time())


def _context(settings: Settings) -> ssl.SSLContext:
    """Trusts what this deployment itself shows, under whatever name it is reached here. Raises Fault."""
    context = ssl.create_default_context()
    cert, key = settings.tls.cert, settings.tls.key
    if cert is None:
        return context
    try:
        context.load_verify_locations(cert)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.check_hostname = False
        if key is not None and Path(key).is_file():
            context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise Fault(f"the certificate {cert} cannot be used: {error}") from None
    return context


def _why(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"HTTP {error.code}"


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 3_600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, 0 to 3600")
    return seconds
