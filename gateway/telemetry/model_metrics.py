"""Metrics of models that come and go, fed by whoever manages them. Tables: docs/reference/metrics.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

LOAD_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)
"""A small model on a laptop to an engine that is built while it loads."""

FIRST_CHUNK_BUCKETS_S = (
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0,
)  # fmt: skip

REASONS = ("missing", "config", "code", "died", "timeout", "warm_up", "unavailable", "other")
"""Why a load fails: what a failure may be counted under; anything else counts as "other"."""
EVICTIONS = ("ttl", "count", "memory")
UNLOADS = (*EVICTIONS, "operator", "failed", "rolled", "shutdown")

MODEL_PEAKS = frozenset({"parley_models_resident", "parley_model_resident", "parley_model_leases"})
"""Gauges that every process tells of the same Triton: of several processes, the largest counts."""


@dataclass(frozen=True, slots=True)
class ModelLevel:
    """A model that is resident now."""

    model: str
    version: str
    why: str
    """default, preload, session, operator or found."""
    leases: int
    """Of all who share the Triton, as far as this process knows."""
    queue: int = 0
    """Requests of this process that wait for an answer."""


class ModelMetrics:
    """One per process and registry. Label values: names of models, and words of the closed sets above."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, about: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(name, about, labels, registry=registry)

        self._loads = counter(
            "parley_model_loads", "Loads by how they ended: loaded, failed", ("model", "outcome")
        )
        self._load_s = Histogram(
            "parley_model_load_seconds",
            "From the request to load to the answer of the warm-up",
            ["model"],
            buckets=LOAD_BUCKETS_S,
            registry=registry,
        )
        self._unloads = counter("parley_model_unloads", "Models unloaded, by why", ("model", "because"))
        self._evictions = counter(
            "parley_model_evictions",
            "Those unloads that the manager decided by itself: ttl, count, memory",
            ("model", "because"),
        )
        self._failures = counter("parley_model_failures", "Failed loads by reason", ("model", "reason"))
        self._repairs = counter("parley_model_repairs", "Models loaded again because their process had died")
        self._rolls = counter(
            "parley_model_rolls", "New versions of a resident model: rolled, failed", ("outcome",)
        )
        self._first_chunk = Histogram(
            "parley_model_first_chunk_seconds",
            "A request handed to Triton to the first chunk of its answer",
            ["model"],
            buckets=FIRST_CHUNK_BUCKETS_S,
            registry=registry,
        )
        self._levels = _Levels()
        registry.register(self._levels)
        for outcome in ("rolled", "failed"):  # there from the start, so that a rate needs no first event
            self._rolls.labels(outcome)

    def loaded(self, model: str, seconds: float) -> None:
        """Counts a load that ended well. seconds: warm-up included; negative times count as 0."""
        self._loads.labels(model, "loaded").inc()
        self._load_s.labels(model).observe(max(0.0, seconds))

    def load_failed(self, model: str, reason: str) -> None:
        """Counts a load that did not. reason: one of REASONS."""
        self._loads.labels(model, "failed").inc()
        self._failures.labels(model, reason if reason in REASONS else "other").inc()

    def unloaded(self, model: str, because: str) -> None:
        """Counts a model that went, once; as an eviction too where `because` is one of EVICTIONS.

        because: one of UNLOADS.
        """
        self._unloads.labels(model, because if because in UNLOADS else "other").inc()
        if because in EVICTIONS:
            self._evictions.labels(model, because).inc()

    def repaired(self) -> None:
        """Counts a model that is back after its process had died."""
        self._repairs.inc()

    def roll_ended(self, *, ok: bool) -> None:
        """Counts an attempt to put a new version in place of the one that answers."""
        self._rolls.labels("rolled" if ok else "failed").inc()

    def first_chunk(self, model: str, seconds: float) -> None:
        """Times one request. Negative times count as 0."""
        self._first_chunk.labels(model).observe(max(0.0, seconds))

    def watch(self, levels: Callable[[], Iterable[ModelLevel]]) -> None:
        """Has the resident models read whenever the metrics are; those that went are in no gauge."""
        self._levels.read = levels


class _Levels(Collector):
    """Gauges made when they are asked for: nothing stays behind of a model that is gone."""

    def __init__(self) -> None:
        self.read: Callable[[], Iterable[ModelLevel]] = tuple

    def collect(self) -> Iterator[Metric]:
        count = GaugeMetricFamily("parley_models_resident", "Models that take new sessions at once")
        resident = GaugeMetricFamily(
            "parley_model_resident", "1 for each such model", labels=["model", "version", "why"]
        )
        leases = GaugeMetricFamily("parley_model_leases", "Holds on a model", labels=["model"])
        queue = GaugeMetricFamily(
            "parley_model_queue", "Requests of this process that wait for an answer", labels=["model"]
        )
        levels = list(self.read())
        count.add_metric([], len({level.model for level in levels}))
        for level in levels:
            resident.add_metric([level.model, level.version, level.why], 1)
        for name in dict.fromkeys(level.model for level in levels):
            its = [level for level in levels if level.model == name]
            leases.add_metric([name], sum(level.leases for level in its))
            queue.add_metric([name], sum(level.queue for level in its))
        yield from (count, resident, leases, queue)
