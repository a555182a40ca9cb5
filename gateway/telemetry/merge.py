"""One metrics page over several processes.

Each process dumps its registry; whoever has all dumps merges them: counters and histograms are added
up, gauges too, but for those of which the largest counts. What a process had counted when it ended is
kept, since a counter that falls reads as a restart of everything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Dump = list[list[Any]]
"""Of each family: [name, type, help, [[sample name, labels, value], …]]. Plain JSON."""

Key = tuple[str, tuple[tuple[str, str], ...]]


def dump(registry: CollectorRegistry) -> Dump:
    """Everything that the registry holds now."""
    return [
        [
            family.name,
            family.type,
            family.documentation,
            [[sample.name, dict(sample.labels), sample.value] for sample in family.samples],
        ]
        for family in registry.collect()
    ]


def merge(dumps: Iterable[Dump], peaks: Collection[str] = ()) -> Dump:
    """One dump of all. peaks: names of the gauges of which the largest value counts, not the sum."""
    families: dict[str, list[Any]] = {}
    values: dict[str, dict[Key, float]] = {}
    for one in dumps:
        for name, kind, about, samples in one:
            families.setdefault(name, [name, kind, about])
            known = values.setdefault(name, {})
            for sample, labels, value in samples:
                key = sample, tuple(labels.items())
                if key not in known:
                    known[key] = value
                elif sample.endswith("_created") and kind != "gauge":
                    known[key] = min(known[key], value)
                elif name in peaks:
                    known[key] = max(known[key], value)
                else:
                    known[key] += value
    return [
        [*family, [[sample, dict(labels), value] for (sample, labels), value in values[name].items()]]
        for name, family in families.items()
    ]


def totals(one: Dump) -> Dump:
    """Only what a process leaves behind when it ends: its counters and histograms, no levels."""
    return [family for family in one if family[1] in ("counter", "histogram", "summary")]


class DumpCollector(Collector):
    """Puts a dump into a registry, so that it is printed as any other."""

    def __init__(self, one: Dump) -> None:
        self._dump = one

    def collect(self) -> Iterator[Metric]:
        for name, kind, about, samples in self._dump:
            family = Metric(name, about, kind)
            for sample, labels, value in samples:
                family.add_sample(sample, labels, value)
            yield family
