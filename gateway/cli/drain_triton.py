"""`parley drain triton`: the preStop hook of a container with Triton."""

from __future__ import annotations

import argparse
import asyncio
from socket import gethostname

from gateway.cli.common import FAILED, OK, Fault, address, complain, end_with_sigterm, load_settings, run
from gateway.cli.drain_after import configure_after, wait_for

_EPILOG = """\
examples:
  parley drain triton                              the Triton of this container: 127.0.0.1:8001
  parley drain triton --triton 10.0.0.7:8001 --timeout 600

Every process of Parley that uses this Triton stops to bring it work at once where it speaks to it (5 s at most), and
takes another; utterances and sentences in progress end where they are. Where there is no other, calls in progress go on
here, and are waited for. As a preStop hook, the container's
terminationGracePeriodSeconds must be larger than --timeout and Triton's --exit-timeout-secs together. Ctrl-C calls it off.
exit codes: 0 nothing is left, or no Triton runs; 1 the time was over before (what was left is said); 2 wrong usage.
"""
_MARK_S = 60.0
"""After its deadline, Triton ends within its --exit-timeout-secs (30 by default)."""


def configure_triton(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument(
        "--triton",
        type=address,
        default="127.0.0.1:8001",
        metavar="ADDR",
        help="its gRPC address (default: 127.0.0.1:8001)",
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=120.0, metavar="S", help="longest wait, seconds (default: 120)"
    )
    configure_after(parser)
    parser.set_defaults(run=_drain)


def _drain(options: argparse.Namespace) -> int:
    timeout_s = wait_for(options.after, options.timeout, load_settings())
    return run(drain_triton(options.triton, timeout_s))


async def drain_triton(where: str, timeout_s: float) -> int:
    """The exit code. Raises: Fault."""
    from gateway.tls.client import client_security
    from gateway.tls.files import TlsError
    from gateway.triton.channel import open_channel
    from gateway.triton.draining import Drain, Left
    from gateway.triton.errors import TritonError, TritonUnavailable

    end_with_sigterm()
    settings = load_settings().triton
    key = settings.repository_key.get_secret_value()
    try:
        channel = open_channel(where, security=client_security(settings.tls, "Triton", on=settings.ssl))
    except TlsError as error:
        raise Fault(str(error)) from None
    label = f"parley drain@{gethostname()}"
    since = asyncio.get_running_loop().time()

    def tell(left: Left) -> None:
        print(f"waiting: {left}", flush=True)

    try:
        async with (
            asyncio.timeout(timeout_s + 10),
            Drain(channel, key=key, label=label, mark_s=timeout_s + _MARK_S) as drain,
        ):
            left = await drain.wait(timeout_s, tell)
    except TritonUnavailable as error:
        print(f"no Triton answers at {where}, nothing is left to drain: {error}")
        return OK
    except TimeoutError:
        raise Fault(f"the Triton at {where} answered too slowly to be drained") from None
    except TritonError as error:
        raise Fault(f"the Triton at {where} cannot be drained: {error}") from None
    finally:
        await channel.close()
    took_s = asyncio.get_running_loop().time() - since
    if left.nothing:
        print(f"drained in {took_s:.1f} s: the Triton at {where} can be stopped")
        return OK
    complain(f"not drained within {timeout_s:g} s, left: {left}")
    return FAILED


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds
