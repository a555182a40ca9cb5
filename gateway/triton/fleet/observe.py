"""What happens to the models of a fleet, in the log and on the metrics page."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.telemetry.model_metrics import ModelLevel, ModelMetrics
from gateway.triton.fleet.fleet import Fleet
from gateway.triton.manager.events import Event, Kind, log_event


class Observer:
    """Its `__call__` is a fleet's `on_event`; `watch(fleet)` once the fleet is made."""

    def __init__(self, metrics: ModelMetrics) -> None:
        self._metrics = metrics

    def __call__(self, event: Event) -> None:
        log_event(event)
        metrics, model = self._metrics, event.model
        match event.kind:
            case Kind.LOADED:
                metrics.loaded(model, event.seconds or 0.0)
            case Kind.LOAD_FAILED:
                metrics.load_failed(model, event.cause)
            case Kind.UNLOADED | Kind.EVICTED:
                metrics.unloaded(model, event.because)
            case Kind.REPAIRED:
                metrics.repaired()
            case Kind.ROLLED | Kind.ROLL_FAILED:
                metrics.roll_ended(ok=event.kind is Kind.ROLLED)
            case _:
                pass

    def watch(self, fleet: Fleet) -> None:
        fleet.servers.figures.on_first = self._metrics.first_chunk
        self._metrics.watch(lambda: _levels(fleet))


def _levels(fleet: Fleet) -> Iterator[ModelLevel]:
    for address, manager in fleet.managers().items():
        for status in manager.seen():
            queue = fleet.servers.figures.load(address, status.info.name).queue
            yield ModelLevel(status.info.name, status.version, str(status.why or ""), status.leases, queue)
