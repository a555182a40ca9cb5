"""TLS of a command that calls a server: its options, and what they make."""

from __future__ import annotations

import argparse
from pathlib import Path

from gateway.cli.common import USAGE, Fault
from gateway.settings import ClientTls
from gateway.tls.client import ClientSecurity


def add_tls_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("TLS")
    group.add_argument("--tls", action="store_true", help="speak TLS; the options below mean it too")
    group.add_argument(
        "--ca",
        type=Path,
        metavar="FILE",
        help="PEM bundle that signs the server's certificate (the system's)",
    )
    group.add_argument("--cert", type=Path, metavar="FILE", help="our PEM certificate chain (mTLS)")
    group.add_argument("--key", type=Path, metavar="FILE", help="our PEM private key (mTLS)")
    group.add_argument(
        "--tls-name",
        default="",
        metavar="HOST",
        help="host that the certificate is for, if not the address's",
    )


def security_of(options: argparse.Namespace) -> ClientSecurity | None:
    """None where no option asks for TLS. Raises Fault."""
    wanted = ClientTls(ca=options.ca, cert=options.cert, key=options.key, name=options.tls_name)
    if not options.tls and wanted == ClientTls():
        return None
    if (options.cert is None) is not (options.key is None):
        raise Fault("--cert and --key go together: give both, or neither", USAGE)
    try:
        return ClientSecurity(wanted, "the gateway")
    except OSError as error:
        raise Fault(str(error), USAGE) from None
