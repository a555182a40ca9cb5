"""How a process ends, and how a session goes on elsewhere: the sections `resume` and `redis`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from gateway.settings_part import Part


class ResumeSettings(Part):
    """A session token lets a client go on with its conversation on another replica, or after a lost line."""

    enabled: bool = True
    ttl_s: float = Field(
        600.0, gt=0, description="a session that ended without its user's will can be resumed for so long"
    )
    store: Literal["auto", "client", "redis"] = Field(
        "auto",
        description="where the history waits: sealed with the client, or in Redis; auto: Redis where it is configured",
    )
    max_bytes: int = Field(
        48 * 1024,
        gt=0,
        description="longest sealed history, at most half of session.max_message_bytes; the oldest turns are left out",
    )


class RedisSettings(Part):
    """A Redis or Valkey that replicas share. Without one, nothing of Parley needs it."""

    url: SecretStr = Field(
        SecretStr(""), description="redis://[user:password@]host:port/db, rediss:// with TLS; empty: none"
    )
    prefix: str = Field("parley:", description="before every key")
    ca: Path | None = Field(None, description="PEM bundle that signs its certificate; empty: the system's")
    timeout_ms: int = Field(500, gt=0, description="deadline of one command")
