"""Settings of the OpenAI-compatible HTTP: the section `openai_audio` of `gateway.settings`."""

from __future__ import annotations

from pydantic import Field

from gateway.settings_part import Part


class OpenAiAudioSettings(Part):
    """OpenAI-compatible speech and transcription (`/v1/audio/*`, `/v1/models`) on the HTTP address."""

    enabled: bool = True
    speech_models: tuple[str, ...] = Field(
        ("tts-1", "tts-1-hd", "gpt-4o-mini-tts"), description="names that mean the configured voice"
    )
    transcription_models: tuple[str, ...] = Field(
        ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"),
        description="names that mean the configured recogniser",
    )
    voices: dict[str, str] = Field(
        {}, description='further names of voices, as JSON: {"nova": "slt"}; OpenAI\'s mean the default else'
    )
    max_speech: int = Field(32, gt=0, description="speech requests at a time; more are told to try again")
    max_transcriptions: int = Field(4, gt=0, description="transcriptions at a time, likewise")
    max_input_chars: int = Field(4_096, gt=0, description="longest text to speak")
    max_upload_mb: float = Field(25.0, gt=0, description="largest recording, MiB")
    max_audio_s: float = Field(7_200.0, gt=0, description="longest recording")
    request_s: float = Field(600.0, gt=0, description="deadline of a request, upload and download included")
    stall_s: float = Field(
        30.0, gt=0, description="client or recogniser moved nothing for this long: given up"
    )
