"""When the certificates that this process shows expire, read whenever the metrics are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from cryptography import x509
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

NAME = "parley_certificate_expires_timestamp_seconds"


class CertificateExpiry(Collector):
    """The end of the first certificate of a chain to expire; what cannot be read has no sample."""

    def __init__(self, chains: Mapping[str, Path]) -> None:
        """chains: PEM files by what they are for: "listeners", or the part that is shown them."""
        self._chains = dict(chains)
        self._known: dict[Path, tuple[tuple[int, int, int], float]] = {}

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            NAME, "When the certificate that is shown expires, since 1970", labels=["of"]
        )
        for of, path in self._chains.items():
            if (expires := self._expires(path)) is not None:
                family.add_metric([of], expires)
        yield family

    def _expires(self, path: Path) -> float | None:
        try:
            found = os.stat(path)
            seen = found.st_ino, found.st_size, found.st_mtime_ns
            known = self._known.get(path)
            if known is None or known[0] != seen:
                chain = x509.load_pem_x509_certificates(path.read_bytes())
                known = self._known[path] = seen, min(one.not_valid_after_utc.timestamp() for one in chain)
        except (OSError, ValueError):
            return None
        return known[1]
