"""The voice of a process, with what is measured of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.settings import Settings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from gateway.speak.tts import Synthesizer


def watched_synthesizer(settings: Settings, registry: CollectorRegistry, label: str) -> Synthesizer:
    """The settings' synthesiser, with metrics of its models."""
    from gateway.speak.factory import make_synthesizer
    from gateway.speak.triton_tts import TritonSynthesizer
    from gateway.telemetry.model_metrics import ModelMetrics
    from gateway.triton.fleet.observe import Observer

    observer = Observer(ModelMetrics(registry))
    made = make_synthesizer(settings.tts, settings.models, settings.triton, label=label, on_event=observer)
    if isinstance(made, TritonSynthesizer):
        observer.watch(made.fleet)
    return made
