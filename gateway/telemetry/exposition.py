"""The metrics page in the format that is asked for: OpenMetrics has exemplars, Prometheus' own text has none."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics


def page(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The page and its content type. accept: the request's header; Prometheus sends one that ranks both.

    OpenMetrics is given to whoever names it at all, as prometheus_client does: who can read it prefers it.
    """
    if "application/openmetrics-text" in accept:
        text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return text, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(registry), CONTENT_TYPE_LATEST
