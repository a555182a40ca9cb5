"""`--after` of `parley drain`: what serves a gateway beside it in its pod goes last.

Kubernetes starts the preStop hooks of all of a pod's containers at the same time, and calls that the gateway lets end
need speech until then.
"""

from __future__ import annotations

import argparse
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request

from gateway.cli.common import USAGE, Fault
from gateway.settings import Settings

_BEGINS_S = 3.0
"""A process that does not drain after so long is not about to end: one container alone is restarted."""
_LOOK_S = 0.25
_ANSWER_S = 5.0
_LEAST_S = 5.0
"""Of the timeout, for the drain itself."""


def configure_after(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--after",
        metavar="URL",
        help="first wait while the process at this address for operators drains, until it has ended",
    )


def wait_for(url: str | None, timeout_s: float, settings: Settings) -> float:
    """Blocks. Seconds of `timeout_s` that are left for the drain itself, 5 at least if there were. Raises: Fault."""
    if url is None:
        return timeout_s
    url = url.rstrip("/")
    parsed = urllib.parse.urlsplit(url)
    if parsed.scheme not in ("http", "https") or not parsed.hostname:
        raise Fault(f"{url!r} is no URL; write http://127.0.0.1:8081", USAGE)
    opener = directly(_unverified(settings) if parsed.scheme == "https" else None)
    began = now = time.monotonic()
    drains = False
    while now < began + timeout_s:
        try:
            drains = _drains(opener, url) or drains
        except ConnectionRefusedError:
            break
        now = time.monotonic()
        if not drains and now >= began + _BEGINS_S:
            print(f"{url} does not drain: it is not waited for", flush=True)
            break
        time.sleep(_LOOK_S)
    if drains:
        print(f"waited {time.monotonic() - began:.1f} s for {url}", flush=True)
    return min(timeout_s, max(_LEAST_S, began + timeout_s - time.monotonic()))


def directly(context: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    """Whatever proxy this machine or pod has for its way out: it knows nobody's loopback but its own."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return urllib.request.build_opener(*handlers)


def _drains(opener: urllib.request.OpenerDirector, url: str) -> bool:
    """Raises: ConnectionRefusedError."""
    try:
        with opener.open(f"{url}/readyz", timeout=_ANSWER_S):
            return False
    except urllib.error.HTTPError as error:
        try:
            return bool(json.load(error)["status"] == "draining")
        except (OSError, ValueError, LookupError, TypeError):
            return False
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ConnectionRefusedError):
            raise reason from None
        return False


def _unverified(settings: Settings) -> ssl.SSLContext:
    """As a kubelet asks: nothing is told to whoever answers. With our certificate, where one is asked for."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    cert, key = settings.tls.cert, settings.tls.key
    try:
        if cert is not None and key is not None:
            context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise Fault(f"the certificate {cert} cannot be used: {error}") from None
    return context
