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
from prometheus_client.samples import Exemplar, Sample

Dump = list[list[Any]]
"""Of each family: [name, type, help, [[sample name, labels, value], …]]. Plain JSON. A sample with an exemplar
has a fourth member: its [labels, value, time (s)]."""

Key = tuple[str, tuple[tuple[str, str], ...]]


def dump(registry: CollectorRegistry) -> Dump:
    """Everything that the registry holds now."""
    return [
        [
            family.name,
            family.type,
            family.documentation,
            [_dumped(sample) for sample in family.samples],
        ]
        for family in registry.collect()
    ]


def merge(dumps: Iterable[Dump], peaks: Collection[str] = ()) -> Dump:
    """One dump of all; of exemplars the latest. peaks: names of the gauges of which the largest value counts, not the sum."""
    families: dict[str, list[Any]] = {}
    values: dict[str, dict[Key, float]] = {}
    exemplars: dict[str, dict[Key, list[Any]]] = {}
    for one in dumps:
        for name, kind, about, samples in one:
            shown = exemplars.setdefault(name, {})
            families.setdefault(name, [name, kind, about])
            known = values.setdefault(name, {})
            for sample, labels, value, *exemplar in samples:
                key = sample, tuple(labels.items())
                if exemplar and (key not in shown or shown[key][2] < exemplar[0][2]):
                    shown[key] = exemplar[0]
                if key not in known:
                    known[key] = value
                elif sample.endswith("_created") and kind != "gauge":
                    known[key] = min(known[key], value)
                elif name in peaks:
                    known[key] = max(known[key], value)
                else:
                    known[key] += value
    return [
        [
            *family,
            [
                [key[0], dict(key[1]), value, *([exemplars[name][key]] if key in exemplars[name] else [])]
                for key, value in values[name].items()
            ],
        ]
        for name, family in families.items()
    ]


def _dumped(sample: Sample) -> list[Any]:
    plain = [sample.name, dict(sample.labels), sample.value]
    shown = sample.exemplar
    return plain if shown is None else [*plain, [dict(shown.labels), shown.value, shown.timestamp or 0.0]]


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
            for sample, labels, value, *exemplar in samples:
                shown = Exemplar(*exemplar[0]) if exemplar else None
                family.add_sample(sample, labels, value, exemplar=shown)
            yield family
