"""What is told of the work: the section `telemetry` of `gateway.settings`."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from gateway.settings_part import Part


class TelemetrySettings(Part):
    """Traces, and what is written down of slow turns. Metrics are always there."""

    otlp: str = Field("", description="OTLP/HTTP collector, as in http://otel:4318; empty: no traces")
    headers: dict[str, SecretStr] = Field({}, description="headers for the collector, as JSON")
    sample: float = Field(
        1.0, ge=0, le=1, description="share of the sessions that are traced, unless the client says"
    )
    slow_turn_ms: int = Field(
        1_500,
        ge=0,
        description="a turn whose first audio took longer is logged with its whole timeline; 0: none",
    )
    stall_ms: int = Field(
        250, gt=0, description="an event loop that stands still for so long is logged and counted"
    )

    @field_validator("otlp")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("give the collector's address as in http://otel:4318, or leave it empty")
        return value
