"""Who may call: API keys, tokens of an issuer, client secrets, with the limits of each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from gateway.identity.caller import ADMIN, METRICS, SCOPES, VOICE, Caller, Denied, current
from gateway.identity.client_secrets import (
    ClientSecret,
    Sealer,
    is_client_secret,
    is_own_token,
)
from gateway.identity.key_file import KeyFile
from gateway.identity.keys import KeyRecord, Keys, digest
from gateway.identity.limits import Counting, Limits
from gateway.identity.tokens import Tokens
from gateway.settings_auth import AuthSettings

log = logging.getLogger(__name__)

ANYBODY = Caller("anybody", "", frozenset(SCOPES))
"""Who calls a server without credentials."""
LOOK_S = 1.0
"""While calls of the key file's keys are open, it is looked at this often: a revocation ends them."""
_LONGEST = 16 * 1024


def configured(auth: AuthSettings) -> bool:
    """Whether callers must show a credential."""
    return bool(auth.keys or auth.jwt_issuer or any(key.get_secret_value() for key in auth.api_keys))


class Identity:
    """One per process and event loop. Without credentials in the settings everybody is let in."""

    def __init__(
        self,
        auth: AuthSettings,
        *,
        counting: Counting | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """counting: who keeps the limits; this process, unless told. wall: Unix time, s.

        To be made on the running loop. Raises BadKeys, ValueError: settings or key file cannot be used.
        """
        loop = asyncio.get_running_loop()
        self._auth, self._wall, self._loop = auth, wall, loop
        self.configured = configured(auth)
        self._file = KeyFile(auth.keys) if auth.keys is not None else None
        scopes = tuple(scope for scope in SCOPES if scope != ADMIN)
        self._plain = Keys(
            KeyRecord(f"settings key {at}", digest(value), scopes)
            for at, key in enumerate(auth.api_keys, 1)
            if (value := key.get_secret_value())
        )
        self._tokens = (
            Tokens(
                auth.jwt_issuer,
                auth.jwt_audience,
                auth.jwks,
                auth.jwt_scope_claim,
                auth.jwt_leeway_s,
                loop.time,
            )
            if auth.jwt_issuer
            else None
        )
        self.on_denied: Callable[[str], None] = lambda reason: None
        """Told why, for each call that is not let in."""
        self.sealer = Sealer(auth.sealing_key.get_secret_value())
        self._counting = counting or Limits(loop.time)
        self._open: dict[object, tuple[Caller, Callable[[], None]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    async def caller(self, given: str, scope: str) -> Caller:
        """Who shows this credential ("": none). Raises Denied, also when the scope is not theirs."""
        try:
            return await self._allowed(given, scope)
        except Denied as denied:
            self.on_denied(denied.reason)
            log.info("a caller was refused: %s", denied.reason)
            raise

    async def _allowed(self, given: str, scope: str) -> Caller:
        if not self.configured and not is_client_secret(given):
            return ANYBODY
        found = await self._who(given, scope)
        if scope not in found.scopes:
            raise Denied(
                "scope",
                f"{found.name} may not do this: it takes the scope {scope}, "
                f"and this credential has {', '.join(sorted(found.scopes)) or 'none'}",
            )
        return found

    @asynccontextmanager
    async def admitted(
        self, given: str, scope: str, on_revoked: Callable[[], None] | None = None
    ) -> AsyncIterator[Caller]:
        """For the length of a call: `caller`, then `held`. Raises Denied."""
        caller = await self.caller(given, scope)
        async with self.held(caller, on_revoked):
            yield caller

    @asynccontextmanager
    async def held(self, caller: Caller, on_revoked: Callable[[], None] | None = None) -> AsyncIterator[None]:
        """For the length of a call: the caller counted. Raises Denied when that is over a limit.

        on_revoked: called, once, when the caller's key is revoked meanwhile.
        """
        limited = bool(caller.max_sessions or caller.per_minute)
        if limited:
            try:
                await self._counting.enter(caller)
            except Denied as denied:
                self.on_denied(denied.reason)
                raise
        token = self._follow(caller, on_revoked) if on_revoked is not None else None
        current.set(caller)  # a call has a task, and so a context, of its own
        try:
            yield
        finally:
            self._open.pop(token, None)
            if limited:
                self._counting.leave(caller)

    def client_secret(
        self, maker: Caller, seconds: int, session: Mapping[str, Any] | None
    ) -> tuple[str, int]:
        """A client secret and when it expires (Unix time, s).

        Raises Denied: a client secret makes no other; ValueError: the session's settings are too long.
        """
        if maker.temporary:
            raise Denied("scope", "a client secret cannot make another one: use the API key on your server")
        expires_at = int(self._wall()) + seconds
        made = ClientSecret(
            maker.id, maker.name, expires_at, maker.max_sessions, maker.per_minute, session or None
        )
        return self.sealer.seal(made), expires_at

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._open.clear()
        if self._looking is not None:
            await asyncio.wait({self._looking})
        if self._file is not None:
            await self._file.close()
        if self._tokens is not None:
            await self._tokens.close()

    # ---- who ------------------------------------------------------------------------------------------

    async def _who(self, given: str, scope: str) -> Caller:
        if not given:
            raise Denied("missing", "no API key came: send it as `authorization: Bearer KEY`")
        if len(given) > _LONGEST:
            raise Denied("unknown", "that is no API key: it is too long")
        if is_client_secret(given):
            return await self._of_client_secret(given)
        if is_own_token(given):
            return self.sealer.open_own(given, self._wall())
        if (record := await self._record(given)) is not None:
            return self._checked(record, scope)
        if self._tokens is not None and given.count(".") == 2:
            max_sessions, per_minute = self._usual_limits(scope)
            return replace(await self._tokens.caller(given), max_sessions=max_sessions, per_minute=per_minute)
        raise Denied("unknown", "this API key is not known here: check it, or ask for a new one")

    async def _record(self, given: str) -> KeyRecord | None:
        if (found := self._plain.find(given)) is not None:
            return found
        return (await self._file.fresh()).find(given) if self._file is not None else None

    def _checked(self, record: KeyRecord, scope: str) -> Caller:
        """Raises Denied."""
        record.check(datetime.fromtimestamp(self._wall(), UTC))
        return record.caller(*self._usual_limits(scope))

    def _usual_limits(self, scope: str) -> tuple[int, int]:
        """Of whom no record says otherwise. They are for callers: what operators ask has only limits of its key."""
        if scope in (ADMIN, METRICS):
            return 0, 0
        return self._auth.max_sessions, self._auth.requests_per_min

    async def _of_client_secret(self, given: str) -> Caller:
        """It is worth what the key that made it is worth now."""
        made = self.sealer.open(given, self._wall()).caller()
        if not self.configured or (made.id.startswith("jwt:") and self._tokens is not None):
            return made
        keys = await self._file.fresh() if self._file is not None else Keys()
        record = self._plain.by_id.get(made.id) or keys.by_id.get(made.id)
        if record is None:
            raise Denied(
                "revoked", "the API key that made this client secret is no longer known: make a new one"
            )
        limits = self._checked(record, VOICE)
        return Caller(
            made.name, made.id, made.scopes & limits.scopes, limits.max_sessions, limits.per_minute,
            temporary=True, session=made.session,
        )  # fmt: skip

    # ---- revocation -----------------------------------------------------------------------------------

    def _follow(self, caller: Caller, on_revoked: Callable[[], None]) -> object:
        token = object()
        if self._file is not None and caller.id.startswith("key:") and caller.id not in self._plain.by_id:
            self._open[token] = caller, on_revoked
            if self._timer is None and self._looking is None:
                self._timer = self._loop.call_later(LOOK_S, self._look)
        return token

    def _look(self) -> None:
        self._timer = None
        if self._open:
            self._looking = self._loop.create_task(self._end_revoked())
            self._looking.add_done_callback(self._looked)

    def _looked(self, looking: asyncio.Task[None]) -> None:
        self._looking = None
        if not looking.cancelled() and (error := looking.exception()) is not None:
            log.error("looking for revoked keys failed", exc_info=error)
        if self._open:
            self._timer = self._loop.call_later(LOOK_S, self._look)

    async def _end_revoked(self) -> None:
        assert self._file is not None
        keys = await self._file.fresh()
        for token, (caller, on_revoked) in list(self._open.items()):
            record = keys.by_id.get(caller.id)
            if record is None or record.revoked is not None:
                del self._open[token]
                log.info("the API key %s was revoked: ending a call of it", caller.name)
                on_revoked()
