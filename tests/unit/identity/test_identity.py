"""Who is who, client secrets, and what a revocation ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.identity import ADMIN, ANYBODY, AUDIO, VOICE, Denied, Identity, configured
from gateway.identity.client_secrets import ClientSecret, Sealer
from gateway.identity.identity import LOOK_S
from gateway.identity.keys import KeyRecord, digest, write_keys
from gateway.settings import AuthSettings
from tests.support.virtual_time import run_virtual

SEALING = "a key that all the replicas share"


class Wall:
    now = 2_000_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def identity(*records: KeyRecord, path: Path, wall: Any = None, **auth: Any) -> AsyncIterator[Identity]:
    write(path, *records)
    made = Identity(AuthSettings(keys=path, sealing_key=SEALING, **auth), wall=wall or Wall())
    try:
        yield made
    finally:
        await made.close()


def write(path: Path, *records: KeyRecord) -> None:
    path.write_text(write_keys(records))


async def reason(made: Identity, given: str, scope: str = VOICE) -> str:
    with pytest.raises(Denied) as caught:
        await made.caller(given, scope)
    return caught.value.reason


APP = KeyRecord("app", digest("app's key"), ("voice", "audio"), max_sessions=3)


async def test_without_credentials_everybody_is_let_in() -> None:
    made = Identity(AuthSettings())
    assert not made.configured
    for scope in (VOICE, ADMIN):
        assert await made.caller("", scope) is ANYBODY
        assert await made.caller("whatever", scope) is ANYBODY
    assert configured(AuthSettings(jwt_issuer="https://i.example"))
    assert not configured(AuthSettings(api_keys=[""]))


async def test_plain_keys_are_good_for_all_but_admin() -> None:
    made = Identity(AuthSettings(api_keys=["laptop"]))
    assert await made.caller("laptop", AUDIO)
    assert await reason(made, "laptop", ADMIN) == "scope"
    assert await reason(made, "") == "missing"
    assert await reason(made, "desktop") == "unknown"
    assert await reason(made, "x" * 100_000) == "unknown"


async def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    async with identity(path=tmp_path / "k") as made:
        assert await reason(made, "app's key") == "unknown"
        assert await reason(made, "") == "missing"


# ---- client secrets ---------------------------------------------------------------------------------


async def test_a_client_secret_is_taken_by_every_replica(tmp_path: Path) -> None:
    wall = Wall()
    session: dict[str, Any] = {"instructions": "Be kind.", "audio": {"output": {"voice": "ann"}}}
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(identity(APP, path=tmp_path / name, wall=wall)) for name in "ab"
        ]
        maker = await one.caller("app's key", VOICE)
        value, expires_at = one.client_secret(maker, 60, session)
        assert value.startswith("ek_")
        assert "kind" not in value
        assert expires_at == int(wall.now) + 60
        caller = await two.caller(value, VOICE)
        assert (caller.name, caller.id, caller.scopes, caller.session) == (
            "app",
            maker.id,
            frozenset({VOICE}),
            session,
        )
        assert caller.max_sessions == 3
        assert await reason(two, value, AUDIO) == "scope"
        with pytest.raises(Denied, match="cannot make another one"):
            two.client_secret(caller, 60, None)
        wall.now += 60
        assert await reason(two, value) == "expired"


async def test_a_client_secret_is_worth_what_its_maker_is_worth(tmp_path: Path) -> None:
    path = tmp_path / "k"
    async with identity(APP, path=path) as made:
        value, _ = made.client_secret(await made.caller("app's key", VOICE), 600, None)
        assert await made.caller(value, VOICE)
        write(path, replace(APP, revoked=datetime.now(UTC)))
        assert await reason(made, value) == "revoked"
        write(path, replace(APP, scopes=("audio",)))
        assert await reason(made, value) == "scope"
        write(path)
        assert await reason(made, value) == "revoked"
        write(path, replace(APP, max_sessions=1))
        assert (await made.caller(value, VOICE)).max_sessions == 1


async def test_a_client_secret_cannot_be_made_up_or_changed(tmp_path: Path) -> None:
    async with identity(APP, path=tmp_path / "k") as made:
        value, _ = made.client_secret(await made.caller("app's key", VOICE), 600, None)
        other = Sealer("another key, that is long enough for it")
        for wrong in (
            value[:-2], value[:-1] + ("A" if value[-1] != "A" else "B"), "ek_", "ek_!", "ek_" + "A" * 20_000,
            other.seal(ClientSecret(APP.id, "app", 3_000_000_000)), "ek_" + made.sealer.own_token(0)[3:],
        ):  # fmt: skip
            assert await reason(made, wrong) == "unknown", wrong


def test_a_sealing_key_must_be_worth_it() -> None:
    with pytest.raises(ValueError, match="has 5 characters: make one of at least 32"):
        Sealer("short")
    with pytest.raises(ValueError, match="more than 6144 bytes"):
        Sealer().seal(ClientSecret("key:1", "app", 0, session={"instructions": "x" * 7_000}))


async def test_a_process_of_the_deployment_has_a_token_of_its_own(tmp_path: Path) -> None:
    wall = Wall()
    async with identity(APP, path=tmp_path / "k", wall=wall) as made:
        token = Sealer(SEALING).own_token(wall.now)
        assert (await made.caller(token, ADMIN)).name == "parley"
        assert await reason(made, token, VOICE) == "scope"
        wall.now += 61
        assert await reason(made, token, ADMIN) == "expired"
        assert await reason(made, Sealer().own_token(wall.now), ADMIN) == "unknown"


# ---- revocation -------------------------------------------------------------------------------------


def test_a_revocation_ends_what_is_open_within_a_second_or_so(tmp_path: Path) -> None:
    other = KeyRecord("other", digest("other's key"))
    path = tmp_path / "k"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with identity(APP, other, path=path) as made:
            ended: list[tuple[str, float]] = []
            secret, _ = made.client_secret(await made.caller("app's key", VOICE), 600, None)
            async with AsyncExitStack() as stack:
                for name, given in (("app", "app's key"), ("browser", secret), ("other", "other's key")):
                    await stack.enter_async_context(
                        made.admitted(given, VOICE, lambda name=name: ended.append((name, loop.time())))  # type: ignore[misc]
                    )
                await asyncio.sleep(10.5)
                assert ended == []
                # Read on the loop here: a thread has no place in virtual time.
                assert made._file is not None
                made._file.keys = type(made._file.keys)([replace(APP, revoked=datetime.now(UTC)), other])
                await asyncio.sleep(LOOK_S + 0.1)
                assert [name for name, _ in ended] == ["app", "browser"]
                assert all(at - 10.5 <= LOOK_S for _, at in ended)
                await asyncio.sleep(5)
                assert len(ended) == 2
            # Nothing is open: nothing looks any more.
            await asyncio.sleep(2 * LOOK_S)
            assert made._timer is None

    run_virtual(main())


async def test_two_starts_at_the_limits_edge_admit_one(tmp_path: Path) -> None:
    one = replace(APP, max_sessions=1)
    async with identity(one, path=tmp_path / "k") as made:
        inside = asyncio.Event()
        end = asyncio.Event()

        async def start() -> str:
            try:
                async with made.admitted("app's key", VOICE):
                    inside.set()
                    await end.wait()
                    return "in"
            except Denied as denied:
                return denied.reason

        starting = [asyncio.create_task(start()) for _ in range(2)]
        await inside.wait()
        await asyncio.wait(starting, return_when=asyncio.FIRST_COMPLETED)
        end.set()
        assert sorted(await asyncio.gather(*starting)) == ["in", "limit"]
        async with made.admitted("app's key", VOICE):
            pass  # the place is free again
