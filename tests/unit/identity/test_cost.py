"""What a look costs stays in the order that docs/decisions/api-keys.md names; a session without credentials pays next to nothing."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway.identity import VOICE, Identity
from gateway.identity.keys import KeyRecord, digest, new_key, write_keys
from gateway.settings import AuthSettings


async def cpu_us(work: Callable[[], Awaitable[None]], times: int = 500) -> float:
    """Of one, the best of several rounds."""
    rounds = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(times):
            await work()
        rounds.append((time.process_time() - began) / times * 1e6)
    return min(rounds)


async def test_what_a_look_costs(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    keys = [new_key() for _ in range(200)]
    file.write_text(
        write_keys([KeyRecord(f"n{at}", digest(key), max_sessions=9) for at, key in enumerate(keys)])
    )
    closed, open_to_all = Identity(AuthSettings(keys=file)), Identity(AuthSettings())

    async def look(identity: Identity, given: str) -> None:
        async with identity.admitted(given, VOICE, lambda: None):
            pass

    assert await cpu_us(lambda: look(closed, keys[-1])) < 100  # 11 where it was measured
    assert await cpu_us(lambda: look(open_to_all, "")) < 40  # 4
    assert closed._file is not None
    assert not closed._open
    await closed.close()
