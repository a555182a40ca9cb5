"""Histories of sessions in Redis (or Valkey), so that any replica can go on with them.

A session is a hash: `e`, its epoch, and `v`, sealed bytes that Redis cannot read. It expires by itself. A client of
our own would add nothing: this is redis-py's (https://redis.readthedocs.io), with a deadline for each command and
without its retries, since whoever waits is in the middle of a conversation.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.session.memory import StoreError
from gateway.settings import RedisSettings

_CLAIM = """
local above = math.max(tonumber(redis.call('HGET', KEYS[1], 'e') or '0'), tonumber(ARGV[1])) + 1
redis.call('HSET', KEYS[1], 'e', above)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {above, redis.call('HGET', KEYS[1], 'v')}
"""
_WRITE = """
if tonumber(redis.call('HGET', KEYS[1], 'e') or '0') > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'e', ARGV[1], 'v', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
_FORGET = """
if tonumber(redis.call('HGET', KEYS[1], 'e') or '0') > tonumber(ARGV[1]) then return 0 end
return redis.call('DEL', KEYS[1])
"""


class RedisHistories:
    """A `session.memory.Store`. Nothing is connected before the first command."""

    def __init__(self, settings: RedisSettings, ttl_s: float) -> None:
        """ttl_s: how long a claim lasts that nothing is written under. Raises ValueError for a URL that is none."""
        self._prefix, self._ttl_ms = settings.prefix, max(1, int(ttl_s * 1000))
        self._within_s = settings.timeout_ms / 1000
        url = settings.url.get_secret_value()
        tls: dict[str, Any] = {}
        if url.startswith("rediss://") and settings.ca is not None:
            tls["ssl_ca_certs"] = str(settings.ca)
        try:
            self._redis = Redis.from_url(
                url,
                socket_timeout=self._within_s,
                socket_connect_timeout=self._within_s,
                retry=Retry(NoBackoff(), 0),
                max_connections=64,
                **tls,
            )
        except ValueError as error:
            raise ValueError(
                f"redis.url is none ({error}); write redis://[user:password@]host:port/db"
            ) from None
        self._claim = self._redis.register_script(_CLAIM)
        self._write = self._redis.register_script(_WRITE)
        self._forget = self._redis.register_script(_FORGET)

    async def claim(self, caller: str, session_id: str, above: int) -> tuple[int, bytes | None]:
        key = self._key(caller, session_id)
        epoch, found = await self._answer(self._claim([key], [above, self._ttl_ms]))
        return int(epoch), None if found is None else bytes(found)

    async def write(self, caller: str, session_id: str, epoch: int, sealed: bytes, ttl_s: float) -> bool:
        key = self._key(caller, session_id)
        ttl_ms = max(1, int(ttl_s * 1000))
        return bool(await self._answer(self._write([key], [epoch, sealed, ttl_ms])))

    async def forget(self, caller: str, session_id: str, epoch: int) -> None:
        await self._answer(self._forget([self._key(caller, session_id)], [epoch]))

    async def close(self) -> None:
        await self._redis.aclose()

    def _key(self, caller: str, session_id: str) -> str:
        """Of one length, and callers cannot meet: an id is a client's own choice."""
        name = hashlib.sha256(f"{caller}\0{session_id}".encode()).hexdigest()
        return f"{self._prefix}session:{name}"

    async def _answer(self, command: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._within_s):
                return await command
        except TimeoutError:
            raise StoreError(f"Redis did not answer within {self._within_s:g} s") from None
        except (RedisError, OSError) as error:
            raise StoreError(f"Redis failed ({type(error).__name__}); check redis.url") from None
