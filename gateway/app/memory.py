"""Where sessions that go on elsewhere are kept meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from gateway.settings import Settings

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from gateway.session.memory import Memory


def make_memory(
    settings: Settings, count: Callable[[str], None]
) -> tuple[Memory | None, Callable[[], Awaitable[None]]]:
    """None where nothing is to be resumed; and what closes it. count: see `Memory`.

    Raises OSError for settings that cannot be.
    """

    async def nothing() -> None: ...

    resume = settings.resume
    if not resume.enabled:
        return None, nothing
    from gateway.session.memory import Memory

    url = settings.redis.url.get_secret_value()
    if resume.store == "redis" and not url:
        raise OSError("resume.store is redis, and redis.url is empty: set PARLEY_REDIS__URL")
    most = settings.session.max_message_bytes // 2
    if resume.max_bytes > most:  # a client could not send such a token back
        log.warning(
            "tokens are at most %d bytes, half of session.max_message_bytes: resume.max_bytes is more", most
        )
        resume = resume.model_copy(update={"max_bytes": most})
    close, store = nothing, None
    if url and resume.store != "client":
        from gateway.cluster.history import RedisHistories

        try:
            store = RedisHistories(settings.redis, resume.ttl_s)
        except (ValueError, OSError) as error:
            raise OSError(str(error)) from None
        close = store.close
    memory = Memory(
        resume,
        settings.auth.sealing_key.get_secret_value(),
        longest_s=settings.session.max_duration_s,
        store=store,
        count=count,
    )
    return memory, close
