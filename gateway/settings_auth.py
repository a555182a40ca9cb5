"""Who may use Parley: the section `auth` of `gateway.settings`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from gateway.settings_part import Listed, Part


class AuthSettings(Part):
    """Credentials that callers show. With none configured, only loopback addresses are listened on."""

    keys: Path | None = Field(
        None, description="YAML file with hashed, named, scoped API keys (`parley keys`); read live"
    )
    api_keys: tuple[SecretStr, ...] = Field(
        (),
        description="API keys as they are, with every scope but admin; for a laptop. A file of hashes else",
    )
    jwt_issuer: str = Field("", description="tokens of this issuer (`iss`) are taken; empty: none")
    jwt_audience: str = Field("", description="what a token's `aud` must hold; empty: `parley`")
    jwks: str = Field(
        "",
        description="URL or file of the issuer's keys; empty: what its /.well-known/openid-configuration names",
    )
    jwt_scope_claim: str = Field("scope", description="claim with the token's scopes, a list or one text")
    jwt_leeway_s: float = Field(
        30.0, ge=0, le=600, description="how wrong the clocks of issuer and server may be"
    )
    sealing_key: SecretStr = Field(
        SecretStr(""),
        description="at least 32 characters that all replicas share: seals client secrets and session tokens; "
        "empty: a random one, which no other process and no later one knows",
    )
    client_secret_s: int = Field(
        600,
        ge=10,
        le=7_200,
        description="how long a client secret for a browser is good, unless asked otherwise",
    )
    open_metrics: bool = Field(False, description="/metrics without a key, where credentials are configured")
    max_sessions: int = Field(
        0, ge=0, description="sessions at a time of one key, unless it says; 0: no limit"
    )
    requests_per_min: int = Field(
        0, ge=0, description="sessions and requests begun per minute by one key, unless it says; 0: no limit"
    )
    insecure: bool = Field(
        False, description="listen on other than loopback without any credentials; said loudly at each start"
    )
    trusted_proxies: Listed[str] = Field(
        (),
        description="addresses and networks (CIDR) whose word for the client's address and scheme is believed",
    )
    proxy_header: Literal["x-forwarded-for", "forwarded"] = Field(
        "x-forwarded-for",
        description="where they say it: X-Forwarded-For and -Proto, or Forwarded; the other one is not read",
    )
