"""Settings of what runs on Triton: the sections `triton`, `models` and `tts_api` of `gateway.settings`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from gateway.settings_part import Listed, Part
from gateway.settings_tls import ClientTls


class TritonSettings(Part):
    """The Triton that `parley serve speech` uses, and the embedded server of `parley up`."""

    uri: str = Field(
        "127.0.0.1:8001",
        description="host:port of Triton's gRPC endpoint; several with commas, or a name that stands for several",
    )
    ssl: bool = Field(False, description="use TLS towards Triton")
    tls: ClientTls = ClientTls()
    repositories: Listed[str] = Field(
        ("model_repository",),
        description="model repositories: folders, or s3://, gs:// and as:// URLs as Triton writes them",
    )
    repository_key: SecretStr = Field(
        SecretStr(""),
        description="key=value of a model repository API restricted with --grpc-restricted-protocol",
    )
    metrics: str = Field(
        "", description="host:port of Triton's metrics, for what GPUs it has; empty: not asked"
    )
    engine_cache: Path | None = Field(
        None,
        description="writable folder for TensorRT engines, one below it for each kind of GPU; default ~/.cache/parley/engines",
    )
    log_dir: Path | None = Field(None, description="server logs; default ~/.local/state/parley")
    request_ms: int = Field(
        3_000,
        gt=0,
        description="longest wait for the answer to a chunk of audio, or for a chunk of a synthesis",
    )


class ModelsSettings(Part):
    """What is resident on Triton, for whom and for how long."""

    asr: str = Field(
        "",
        description="default recogniser; must load, or start-up fails; empty: the repository's own; none: no default",
    )
    tts: str = Field("", description="default voice model, likewise")
    preload: tuple[str, ...] = Field((), description="further models loaded at start and kept")
    on_demand: bool = Field(True, description="load a model when the first session asks for it")
    ttl_s: float = Field(600.0, ge=0, description="unloaded after so long without a session; 0: never")
    min_residency_s: float = Field(120.0, ge=0, description="not unloaded sooner than this after its load")
    max_resident: int = Field(0, ge=0, description="most models resident at a time; 0: no cap")
    max_memory_mb: int = Field(0, ge=0, description="most memory of all resident models, as they declare it")
    max_loads: int = Field(2, ge=1, description="loads at the same time")
    load_s: float = Field(120.0, gt=0, description="deadline of a load, warm-up included")
    drain_s: float = Field(30.0, ge=0, description="how long an unload waits for the last sessions")
    backoff_s: float = Field(5.0, gt=0, description="pause after a failed load; doubles up to 5 min")
    linger_s: float = Field(
        30.0, ge=0, description="a Riva stream's hold on its model outlives it by this: callers pause"
    )
    lease_s: float = Field(15.0, gt=0, description="a process that says nothing for this long holds nothing")
    fallback: bool = Field(
        True, description="while a wanted model loads, serve from a resident one of the same language"
    )
    policy: Path | None = Field(None, description="YAML file with routing policies")
    voice_packs: Listed[Path] = Field((), description="folders of voice packs, each a folder with voice.yaml")


class TtsApiSettings(Part):
    """The TTS API (parley.v1.Tts) of `parley serve speech`, on the Riva address."""

    name: str = Field("", description="what this service calls itself; empty: the host's name")
    address: str = Field(
        "",
        description="host:port at which clients reach this service, as it tells them; "
        "empty: where it listens, with the host's name in place of 0.0.0.0",
    )
    max_sessions: int = Field(256, ge=1, description="sessions at a time; one more is refused")
    idle_s: float = Field(300.0, gt=0, description="a session in which nothing happens for so long is ended")
    lead_ms: int = Field(
        200,
        ge=0,
        le=2_000,
        description="how far ahead of real time frames leave, unless a session asks otherwise",
    )
    hot_s: float = Field(
        5.0,
        gt=0,
        le=60,
        description="audio made ahead of what has left, also while paused; then the model waits",
    )
    first_chars: int = Field(
        20, ge=1, description="shortest first piece of an utterance that is spoken early"
    )
    loudness_lufs: float = Field(-16.0, ge=-40, le=-5, description="integrated loudness of what is spoken")
    calibrate: bool = Field(
        True,
        description="a voice says one sentence unheard before it first speaks, so that its level is known",
    )
