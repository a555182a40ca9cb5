"""A RecognitionConfig, checked and put into our own words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from riva.client.proto import riva_asr_pb2 as rasr
from riva.client.proto import riva_audio_pb2

from gateway.audio.files import Encoding
from gateway.riva.endpointing import Endpointing
from gateway.riva.errors import Refused
from gateway.riva.listening import MAX_UTTERANCE_S

ENCODINGS: Mapping[int, Encoding] = {
    riva_audio_pb2.ENCODING_UNSPECIFIED: Encoding.AUTO,
    riva_audio_pb2.LINEAR_PCM: Encoding.LINEAR_PCM,
    riva_audio_pb2.FLAC: Encoding.FLAC,
    riva_audio_pb2.MULAW: Encoding.MULAW,
    riva_audio_pb2.OGGOPUS: Encoding.OGG_OPUS,
    riva_audio_pb2.ALAW: Encoding.ALAW,
}
ENDPOINTING_KEY = "parley.endpointing"
"""In custom_configuration: "off" makes the whole stream one utterance."""
_LONGEST_MS = int(MAX_UTTERANCE_S * 1000)
_MOST_HINTS = 1_000
_LONGEST_HINT = 200


@dataclass(frozen=True, slots=True)
class Recognition:
    """What a client asked for."""

    encoding: Encoding
    rate: int
    """Hz of raw audio, as declared; 0 when not."""
    channels: int
    language: str
    """BCP-47; "" leaves it to the server."""
    model: str
    """"" leaves it to the server."""
    hints: tuple[str, ...]
    """Phrases to favour."""
    word_times: bool
    endpointing: Endpointing | None
    """None: the whole stream is one utterance."""


def recognition(config: rasr.RecognitionConfig) -> Recognition:
    """Raises Refused for what cannot be served; what Riva calls optional and no model here offers is ignored."""
    encoding = ENCODINGS.get(config.encoding)
    if encoding is None:
        raise Refused(
            f"Error: encoding {config.encoding} is unknown: use LINEAR_PCM, FLAC, MULAW, OGGOPUS or ALAW"
        )
    if config.audio_channel_count < 0 or config.max_alternatives < 0:
        raise Refused("Error: audio_channel_count and max_alternatives must not be negative")
    if config.enable_separate_recognition_per_channel and config.audio_channel_count > 1:
        raise Refused(
            "Error: enable_separate_recognition_per_channel is not supported: send one stream per channel"
        )
    phrases = [phrase.strip() for context in config.speech_contexts for phrase in context.phrases]
    if len(phrases) > _MOST_HINTS or any(len(phrase) > _LONGEST_HINT for phrase in phrases):
        raise Refused(
            f"Error: speech_contexts hold at most {_MOST_HINTS} phrases of {_LONGEST_HINT} characters each"
        )
    return Recognition(
        encoding=encoding,
        rate=config.sample_rate_hertz,
        channels=config.audio_channel_count or 1,
        language=config.language_code.strip(),
        model=config.model.strip(),
        hints=tuple(phrase for phrase in phrases if phrase),
        word_times=config.enable_word_time_offsets,
        endpointing=_endpointing(config),
    )


def _endpointing(config: rasr.RecognitionConfig) -> Endpointing | None:
    """None when the client ends its utterances itself: by our own key, in a map meant
    for keys that only some servers know, or by a stop_history of 0 or longer than any utterance."""
    if config.custom_configuration.get(ENDPOINTING_KEY, "").lower() == "off":
        return None
    # ListFields also gives an explicit zero: these fields have presence.
    given = {field.name: value for field, value in config.endpointing_config.ListFields()}
    for name, value in given.items():
        if value < 0 or ("threshold" in name and value > 1) or value != value:
            raise Refused(
                f"Error: endpointing_config.{name} is {value:g}: "
                "histories are milliseconds from 0, thresholds lie between 0 and 1"
            )
        if "history" in name:
            given[name] = min(value, _LONGEST_MS)
    settings = Endpointing(**given)
    if settings.stop_history in (0, _LONGEST_MS):
        return None
    if settings.stop_history_eou >= settings.stop_history:
        raise Refused("Error: endpointing_config.stop_history_eou must be shorter than stop_history")
    return settings
