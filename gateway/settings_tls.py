"""TLS of what Parley serves (the section `tls`) and of what it calls (mixed into the parts' sections)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from gateway.settings_part import Part


class TlsSettings(Part):
    """Every listener's TLS. Files are looked at again when they change; open calls go on."""

    cert: Path | None = Field(None, description="PEM certificate chain; empty: no TLS")
    key: Path | None = Field(None, description="PEM private key of it")
    client_ca: Path | None = Field(None, description="PEM bundle that signs clients' certificates (mTLS)")
    client_auth: Literal["off", "optional", "required"] = Field(
        "off", description="whether clients must show a certificate"
    )
    admin: bool = Field(
        False, description="TLS on the health and metrics addresses too; probes must then speak HTTPS"
    )


class ClientTls(Part):
    """TLS towards one part; `ssl` beside it, or https:// in its URL, switches it on. Files are looked at again when
    they change: new connections use them, open calls go on."""

    ca: Path | None = Field(
        None, description="PEM bundle that signs the part's certificate; empty: the system's"
    )
    cert: Path | None = Field(
        None, description="our PEM certificate chain, where the part asks for one (mTLS)"
    )
    key: Path | None = Field(None, description="our PEM private key")
    name: str = Field(
        "", description="host name that the part's certificate is for, where the address has another"
    )
