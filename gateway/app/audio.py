"""OpenAI-compatible audio beside a gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from gateway.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from gateway.speak.tts import Synthesizer
    from gateway.telemetry.tracing import Tracing


class OpenAiAudioService:
    """OpenAI-compatible speech and transcription, to be served beside a gateway's HTTP pages."""

    def __init__(
        self,
        settings: Settings,
        synthesizer: Synthesizer | None,
        admitting: Callable[[], Awaitable[bool]],
        tracing: Tracing | None = None,
    ) -> None:
        """synthesizer: None makes one of its own. admitting: whether new work is taken now."""
        from gateway.listen.riva_file import RivaTranscriber
        from gateway.openai_audio.app import PATHS, ROUTES, OpenAiAudio
        from gateway.speak.factory import make_synthesizer
        from gateway.telemetry.asgi import TracedApp

        self._drain_s = settings.session.drain_s
        self._own = None
        if synthesizer is None:
            self._own = make_synthesizer(
                settings.tts, settings.models, settings.triton, label="gateway audio"
            )
        speaks = synthesizer or self._own
        assert speaks is not None
        self._transcriber = RivaTranscriber(settings.asr, stall_s=settings.openai_audio.stall_s)
        self._app = OpenAiAudio(settings, speaks, self._transcriber, admitting=admitting)
        traced = TracedApp(self._app, tracing, ROUTES)
        self.beside: dict[str, ASGIApp] = dict.fromkeys(PATHS, traced)
        """For `build_http`."""

    @property
    def open(self) -> int:
        """Requests inside."""
        return self._app.open

    async def drain(self) -> None:
        """Requests end; nothing new is taken."""
        await self._app.drain(self._drain_s)

    async def close(self) -> None:
        """After the HTTP server."""
        await self._transcriber.close()
        if self._own is not None:
            await self._own.close()
