"""Which synthesiser the settings ask for."""

from __future__ import annotations

from collections.abc import Callable

from gateway.settings import ModelsSettings, TritonSettings, TtsSettings
from gateway.speak.riva_tts import RivaSynthesizer
from gateway.speak.triton_tts import TritonSynthesizer
from gateway.speak.tts import Synthesizer, TtsError
from gateway.triton.errors import TritonError
from gateway.triton.manager.events import Event, log_event


def make_synthesizer(
    settings: TtsSettings,
    models: ModelsSettings | None = None,
    triton: TritonSettings | None = None,
    *,
    label: str = "gateway",
    on_event: Callable[[Event], None] = log_event,
) -> Synthesizer:
    """A synthesiser of `settings.kind`; must be made on the event loop that will use it.

    models, triton, label, on_event: for models on Triton; see `Fleet`. Raises: TtsError for addresses and policies
    that are none.
    """
    if settings.kind == "riva":
        return RivaSynthesizer(settings)
    try:
        return TritonSynthesizer(
            settings,
            models,
            repositories=triton.repositories if triton is not None else (),
            key=triton.repository_key.get_secret_value() if triton is not None else "",
            label=label,
            on_event=on_event,
        )
    except TritonError as error:
        raise TtsError(str(error), unwell=False) from error
