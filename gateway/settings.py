"""Every setting of Parley, in one typed tree.

Sources, the first that has a value wins: keyword arguments, `PARLEY_*` environment variables
(`PARLEY_ASR__URI`, nested by a double underscore), files so called in the folder that `PARLEY_SECRETS` names, the YAML file named by `PARLEY_CONFIG`, the
defaults below. Times are milliseconds (`_ms`) or seconds (`_s`), levels dB or dBFS (`_db`, `_dbfs`).
"""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from gateway.settings_auth import AuthSettings as AuthSettings
from gateway.settings_files import secret_files
from gateway.settings_lifetime import RedisSettings as RedisSettings
from gateway.settings_lifetime import ResumeSettings as ResumeSettings
from gateway.settings_models import ModelsSettings as ModelsSettings
from gateway.settings_models import TritonSettings as TritonSettings
from gateway.settings_models import TtsApiSettings as TtsApiSettings
from gateway.settings_openai import OpenAiAudioSettings as OpenAiAudioSettings
from gateway.settings_part import Part
from gateway.settings_telemetry import TelemetrySettings as TelemetrySettings
from gateway.settings_tls import ClientTls as ClientTls
from gateway.settings_tls import TlsSettings as TlsSettings


class AsrSettings(Part):
    """The gateway's recogniser: any Riva-compatible gRPC endpoint (ours, NVIDIA Riva, a Riva NIM)."""

    uri: str = Field(
        "127.0.0.1:50051",
        description="host:port of the Riva ASR service; several with commas between, or dns:///name:port for every "
        "address of a name",
    )
    model: str = Field("", description="Riva model name; empty lets the server choose by language")
    language: str = Field("en-US", description="BCP-47 language asked for when a client names none")
    api_key: SecretStr = Field(SecretStr(""), description="sent as `authorization: Bearer …`")
    ssl: bool = Field(False, description="use TLS towards the service")
    tls: ClientTls = ClientTls()
    metadata: dict[str, SecretStr] = Field(
        {}, description='further gRPC metadata, as JSON: {"function-id": …}'
    )
    deadline_ms: int = Field(5_000, gt=0, description="longest wait for a final after the end of a turn")
    chunk_ms: int = Field(
        96, gt=0, description="audio sent in one message: smaller is sooner heard, and dearer"
    )
    silence_ms: int = Field(
        8_000, gt=0, description="speech fed for this long without any answer: the service is silent"
    )
    replay_s: float = Field(8.0, gt=0, description="audio kept for replay when the service fails")
    retry_budget_ms: int = Field(
        10_000, gt=0, description="how long an utterance may be retried before an error"
    )


class TtsSettings(Part):
    """The voice: a Triton decoupled model, or a Riva-compatible TTS service."""

    kind: Literal["triton", "riva"] = "triton"
    uri: str = Field(
        "127.0.0.1:8001",
        description="host:port: Triton's gRPC, or the Riva TTS service; several as in `asr.uri`",
    )
    model: str = Field("", description="Triton model name; empty takes the best ready `tts_*`")
    voice: str = Field("", description="voice name; empty takes the model's first")
    language: str = Field("en-US", description="BCP-47")
    api_key: SecretStr = Field(SecretStr(""), description="sent as `authorization: Bearer …` (riva)")
    ssl: bool = Field(False, description="use TLS towards it")
    tls: ClientTls = ClientTls()
    metadata: dict[str, SecretStr] = Field({}, description="further gRPC metadata, as JSON (riva)")
    sample_rate: int = Field(22_050, ge=8_000, le=48_000, description="Hz asked for (riva)")
    first_chunk_ms: int = Field(5_000, gt=0, description="longest wait for a sentence's first chunk")
    chunk_ms: int = Field(5_000, gt=0, description="longest wait for each later chunk")


def call_metadata(service: AsrSettings | TtsSettings) -> list[tuple[str, str]]:
    """gRPC metadata of every call to a Riva service: the API key and what else is set. Holds secrets."""
    pairs = [(key, value.get_secret_value()) for key, value in service.metadata.items()]
    if service.api_key.get_secret_value():
        pairs.append(("authorization", f"Bearer {service.api_key.get_secret_value()}"))
    return pairs


class LlmSettings(Part):
    """Any OpenAI-compatible chat endpoint: NIM, vLLM, Ollama, the stand-in."""

    base_url: str = Field(
        "http://127.0.0.1:8090/v1", description="base URL ending in /v1; https:// speaks TLS"
    )
    tls: ClientTls = ClientTls()
    api_key: SecretStr = SecretStr("")
    model: str = "stand-in"
    temperature: float = 0.7
    max_tokens: int = Field(512, gt=0)
    system_prompt: str = (
        "You are a helpful voice assistant. Answer in a few short spoken sentences, without lists or markup."
    )
    first_token_ms: int = Field(8_000, gt=0, description="longest wait for the first token, all tries")
    token_ms: int = Field(5_000, gt=0, description="longest wait between tokens")
    retries: int = Field(2, ge=0, description="tries after a failure, only before the first token")
    apology: str = Field("", description="spoken when a reply failed before a word of it; empty says nothing")
    history_turns: int = Field(
        32, gt=0, description="most turns kept in the prompt; the oldest quarter is dropped at once"
    )
    warm_up: bool = Field(
        True, description="connect ahead: when a session starts and when its user begins to speak"
    )
    warm_prefix: bool = Field(
        False,
        description="send the instructions when a session starts, for one token, so that the server's prefix "
        "cache holds them; it costs those tokens",
    )


class VadSettings(Part):
    """Silero, batched over all sessions."""

    threshold: float = Field(0.5, gt=0, lt=1)
    speaking_threshold: float = Field(0.6, gt=0, lt=1, description="while a reply is audible")
    release: float = Field(0.15, ge=0, description="speech ends this far below the threshold")
    onset_windows: int = Field(1, ge=1, description="32 ms windows in a row that make an onset")
    pre_roll_ms: int = Field(300, ge=0, description="audio before the onset that the recogniser gets")


class GateSettings(Part):
    """Adaptive noise gate in front of the detector: it silences input, it never stops the clock."""

    enabled: bool = True
    margin_db: float = Field(
        7.0, description="opens this far above the noise floor, times the state's factor"
    )
    percentile: float = Field(10.0, description="of the recent levels: the noise floor")
    window_s: float = Field(3.0, gt=0, description="how far back the floor looks")
    hold_ms: int = Field(240, ge=0, description="stays open after the level fell")
    factor_listening: float = 1.0
    factor_waiting: float = 1.0
    factor_speaking: float = 2.0
    factor_barged_in: float = 1.2


class EchoSettings(Part):
    """Server-side echo defence: our own playout heard through the microphone is no speech."""

    enabled: bool = True
    max_delay_ms: int = Field(500, description="longest way out of the gateway and back in")


class TurnSettings(Part):
    """End of turn: silence and transcript together."""

    hangover_ms: int = Field(
        224, gt=0, description="silence that ends a turn whose transcript looks finished"
    )
    hangover_long_ms: int = Field(
        640,
        gt=0,
        description="silence that ends any turn; where the words leave it open, the mean of both does",
    )
    patient: bool = Field(
        True,
        description="after a pause inside a turn, the session's next turns wait one and a half times as long",
    )
    max_utterance_s: float = Field(60.0, gt=0, description="a turn is ended after this much speech")
    eager: bool = Field(
        False, description="start the LLM and the first sentence on a partial, use them if the final agrees"
    )
    eager_ms: int = Field(
        32,
        gt=0,
        description="the detector in doubt for this long begins it; three times where the words are unsure",
    )
    stable_ms: int = Field(80, ge=0, description="a partial unchanged for this long may end a turn early")
    stall_ms: int = Field(300, gt=0, description="no audio for this long in mid-speech counts as silence")
    automatic: bool = Field(True, description="false: turns end only on commit (push to talk)")


class BargeInSettings(Part):
    enabled: bool = True
    confirm_ms: int = Field(250, gt=0, description="voiced audio that confirms an interruption")
    confirm_backchannel_ms: int = Field(700, gt=0, description="the same while only backchannels were said")
    confirm_word_ms: int = Field(
        128,
        ge=0,
        description="voiced audio that a recognised word needs beside it: noise alone also yields words",
    )
    judge_wait_ms: int = Field(
        400, gt=0, description="after the user fell silent: longest wait for the words that decide"
    )
    fast: bool = Field(
        True, description="hold the reply back at any loud sound until the detector has decided"
    )
    fast_margin_db: float = Field(
        12.0, gt=0, description="loud: this far above the loudest lately heard that was no speech"
    )
    fast_least_dbfs: float = Field(-40.0, le=0, description="loud: at least this")
    fast_hold_ms: int = Field(
        220,
        gt=0,
        description="longest hold; beyond the pacing lead it is heard, and only a sound that goes on gets there",
    )
    backchannels: tuple[str, ...] = (
        "uh huh", "uh-huh", "mm hmm", "mhm", "mm", "hmm", "yeah", "yes", "yep", "ok", "okay", "right",
        "sure", "i see", "got it", "ah", "oh", "aha", "uh", "um", "er",
    )  # fmt: skip


class PlayoutSettings(Part):
    lead_ms: int = Field(60, ge=0, description="how far ahead of real time frames are sent")
    tick_ms: int = Field(5, gt=0, description="the shared timer of all paced sends")
    buffer_s: float = Field(
        30.0, gt=0, description="synthesised audio held per session; then synthesis waits"
    )
    loudness_dbfs: float = Field(
        -20.0, description="target RMS of voiced speech (about -16 LUFS mono speech)"
    )
    first_sentence_chars: int = Field(12, ge=1, description="shortest first piece handed to synthesis")


class SessionSettings(Part):
    max_sessions: int = Field(200, gt=0, description="per worker process")
    admit_backlog_ms: float = Field(
        150.0,
        ge=0,
        description="detector backlog that, when it lasts, has new sessions refused; 0 never does",
    )
    admit_lag_ms: float = Field(
        150.0, ge=0, description="the same for how late the event loop runs its timers; 0 never does"
    )
    admit_busy: float = Field(
        0.95,
        ge=0,
        le=1,
        description="the same for the share of a second that the event loop's thread is busy; 0 never does",
    )
    handshake_s: float = Field(10.0, gt=0, description="a stream that says nothing is closed")
    idle_s: float = Field(300.0, gt=0, description="no speech, text or reply for this long ends a session")
    max_duration_s: float = Field(4 * 3600.0, gt=0)
    max_turns: int = Field(1_000, gt=0)
    max_message_bytes: int = Field(256 * 1024, gt=0)
    max_text_chars: int = Field(8_000, gt=0)
    outbox_ms: int = Field(
        2_000, gt=0, description="unsent audio held for a slow client; then oldest dropped"
    )
    slow_client_s: float = Field(
        30.0, gt=0, description="a client that takes nothing for this long is closed"
    )
    ping_s: float = Field(
        20.0, gt=0, lt=60, description="a stream on which nothing moved for this long gets a ping"
    )
    lost_s: float = Field(
        50.0, gt=0, description="a client that answers pings is closed after this much silence"
    )
    drain_s: float = Field(30.0, ge=0, description="grace for replies to end on shutdown or end of input")


class BreakerSettings(Part):
    """What keeps a failing recogniser, LLM or synthesiser from being asked on and on; one breaker for each."""

    failures: int = Field(5, gt=0, description="failures in a row after which a part is left alone")
    open_s: float = Field(2.0, gt=0, description="for how long; then one call tries it")


class ListenSettings(Part):
    """Addresses of our own servers; port 0 takes any."""

    grpc: str = Field("127.0.0.1:50050", description="parley.v1")
    riva: str = Field("127.0.0.1:50051", description="Riva ASR and TTS")
    http: str = Field(
        "127.0.0.1:8080", description="OpenAI-compatible audio, client secrets; health alone beside them"
    )
    admin: str = Field(
        "127.0.0.1:8081", description="health, readiness, metrics, sessions: for operators, never for callers"
    )
    speech_http: str = Field("127.0.0.1:8082", description="health and metrics of the speech process")
    llm: str = Field("127.0.0.1:8090", description="the stand-in LLM")
    workers: int = Field(
        1, ge=1, le=256, description="gateway processes behind the one gRPC and the one HTTP address"
    )


class StandInSettings(Part):
    """The stand-in LLM's timing."""

    first_token_ms: float = Field(0.0, ge=0)
    tokens_per_s: float = Field(0.0, ge=0, description="0: as fast as possible")
    api_key: SecretStr = Field(
        SecretStr(""), description="must be sent as `authorization: Bearer …`; empty: open to all"
    )


class Settings(BaseSettings):
    """The whole tree. `Settings()` reads the environment; unknown `PARLEY_*` section keys are refused."""

    model_config = SettingsConfigDict(
        env_prefix="PARLEY_", env_nested_delimiter="__", extra="ignore", frozen=True
    )

    asr: AsrSettings = AsrSettings()
    tts: TtsSettings = TtsSettings()
    llm: LlmSettings = LlmSettings()
    vad: VadSettings = VadSettings()
    gate: GateSettings = GateSettings()
    echo: EchoSettings = EchoSettings()
    turn: TurnSettings = TurnSettings()
    barge_in: BargeInSettings = BargeInSettings()
    playout: PlayoutSettings = PlayoutSettings()
    session: SessionSettings = SessionSettings()
    breaker: BreakerSettings = BreakerSettings()
    listen: ListenSettings = ListenSettings()
    triton: TritonSettings = TritonSettings()
    models: ModelsSettings = ModelsSettings()
    tts_api: TtsApiSettings = TtsApiSettings()
    openai_audio: OpenAiAudioSettings = OpenAiAudioSettings()
    stand_in: StandInSettings = StandInSettings()
    auth: AuthSettings = AuthSettings()
    tls: TlsSettings = TlsSettings()
    resume: ResumeSettings = ResumeSettings()
    redis: RedisSettings = RedisSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources: list[PydanticBaseSettingsSource] = [init_settings, env_settings, *secret_files(settings_cls)]
        path = os.environ.get("PARLEY_CONFIG")
        if path:
            sources.append(YamlConfigSettingsSource(settings_cls, yaml_file=path))
        return tuple(sources)
