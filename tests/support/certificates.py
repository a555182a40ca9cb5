"""Certificates for tests, as files of a folder, made by `trustme`."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme

from gateway.settings import ClientTls


@dataclass(frozen=True)
class Pair:
    cert: Path
    key: Path


class Folder:
    """`ca.crt`, `tls.crt` and `tls.key` as a Kubernetes Secret is mounted: links through `..data`, which is swapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._turn = 0
        self.cert, self.key, self.ca = path / "tls.crt", path / "tls.key", path / "ca.crt"

    def put(self, leaf: trustme.LeafCert, *authorities: trustme.CA) -> None:
        """All three at once."""
        self._turn += 1
        at = self.path / f"..{self._turn}"
        at.mkdir()
        (at / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        (at / "tls.key").write_bytes(leaf.private_key_pem.bytes())
        (at / "ca.crt").write_bytes(b"".join(ca.cert_pem.bytes() for ca in authorities))
        fresh = self.path / "..new"
        fresh.symlink_to(at.name)
        fresh.replace(self.path / "..data")
        for name in ("tls.crt", "tls.key", "ca.crt"):
            link = self.path / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")

    def server(self, **changes: Any) -> dict[str, Any]:
        """The section `tls` of a server that demands clients' certificates."""
        return {
            "cert": self.cert, "key": self.key, "client_ca": self.ca, "client_auth": "required", "admin": True,
        } | changes  # fmt: skip

    def client(self, **changes: Any) -> dict[str, Any]:
        """The section `tls` of a part's settings."""
        return {"ca": self.ca, "cert": self.cert, "key": self.key} | changes

    def client_tls(self, **changes: Any) -> ClientTls:
        return ClientTls(**self.client(**changes))


def server_leaf(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert("localhost", "127.0.0.1")


def client_leaf(ca: trustme.CA, *, expired: bool = False) -> trustme.LeafCert:
    until = datetime.now(UTC) - timedelta(hours=1) if expired else None
    since = datetime.now(UTC) - timedelta(hours=2) if expired else None
    return ca.issue_cert("caller@example.test", not_before=since, not_after=until)


@dataclass(frozen=True)
class Answer:
    code: int
    text: str
    """Both streams."""

    @property
    def serial(self) -> str:
        """Of the certificate that the server showed."""
        marker = "-----BEGIN CERTIFICATE-----"
        pem = marker + self.text.split(marker, 1)[1].split("-----END", 1)[0] + "-----END CERTIFICATE-----\n"
        done = subprocess.run(
            ["openssl", "x509", "-noout", "-serial"], input=pem, capture_output=True, text=True, check=True
        )
        return done.stdout.strip().partition("=")[2].lower().lstrip("0")


def s_client(address: str, *options: str, sent: bytes = b"", wait: bool = False) -> Answer:
    """OpenSSL's own client. wait: until the server closes, instead of leaving after the handshake."""
    more = ["-ign_eof"] if wait else []
    done = subprocess.run(
        ["openssl", "s_client", "-connect", address, "-servername", "localhost", *more, *options],
        input=sent, capture_output=True, timeout=20, check=False, env=os.environ | {"OPENSSL_CONF": os.devnull},
    )  # fmt: skip
    return Answer(done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace"))


def serial_of(leaf: trustme.LeafCert) -> str:
    from cryptography import x509

    return f"{x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()).serial_number:x}"
