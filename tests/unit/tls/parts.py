"""Every listener of Parley over TLS, with emulated parts behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from gateway.app import Gateway, Speech, StandInLlm
from gateway.settings import Settings
from load.emulators.app import Emulators
from load.emulators.profile import LlmProfile, Profile

LISTENERS = ("grpc", "http", "admin", "riva", "speech_http", "llm")


@dataclass(frozen=True)
class Everything:
    endpoints: dict[str, str]

    def address(self, key: str) -> str:
        """host:port"""
        return self.endpoints[key].partition("://")[2].partition("/")[0] or self.endpoints[key]


def any_port() -> dict[str, Any]:
    return dict.fromkeys(LISTENERS, "127.0.0.1:0")


@asynccontextmanager
async def everything(tls: dict[str, Any], **changes: dict[str, Any]) -> AsyncIterator[Everything]:
    """tls: of all listeners. changes: of the settings, by section."""
    async with AsyncExitStack() as stack:
        parts = Emulators(Profile(llm=LlmProfile(replies=("Yes.",))))
        at = await parts.open()
        stack.push_async_callback(parts.close)
        sections: dict[str, Any] = {
            "listen": any_port(),
            "tls": tls,
            "asr": {"uri": at.asr},
            "llm": {"base_url": at.llm},
            "tts": {"uri": at.triton},
            "triton": {"uri": "127.0.0.1:1"},
            "session": {"drain_s": 0.0, "admit_busy": 0, "admit_lag_ms": 0, "admit_backlog_ms": 0},
        }
        settings = Settings(**(sections | changes))
        found: dict[str, str] = {}
        for service in (Gateway(settings), Speech(settings), StandInLlm(settings)):
            stack.push_async_callback(service.stop)
            await service.start()
            found |= service.endpoints()
        yield Everything(found)
