"""Tokens of an issuer that signs with real keys and publishes them over HTTP."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.identity.caller import Denied
from gateway.identity.key_set import AGAIN_S, FAILED_S, OLD_S, KeySet
from gateway.identity.tokens import Tokens
from tests.support.issuer import Issuer


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def tokens(
    issuer: Issuer, *, source: str = "", leeway_s: float = 0.0, claim: str = "scope", clock: Any = None
) -> Tokens:
    return Tokens(issuer.url, "", source, claim, leeway_s, clock or Clock())


async def denied(checked: Tokens, token: str) -> Denied:
    with pytest.raises(Denied) as caught:
        await checked.caller(token)
    assert token not in str(caught.value)
    return caught.value


async def test_every_kind_of_key_and_how_they_are_found(tmp_path: Path) -> None:
    async with Issuer() as issuer:
        for algorithm in ("PS256", "ES256", "EdDSA"):
            issuer.add(algorithm, algorithm)
        file = tmp_path / "jwks.json"
        file.write_text(json.dumps({"keys": issuer.published}))
        for source in ("", f"{issuer.url}/keys", str(file)):
            checked = tokens(issuer, source=source)
            for kid in ("rsa-1", "PS256", "ES256", "EdDSA"):
                caller = await checked.caller(issuer.token(kid, sub="ann", scope="voice audio nonsense"))
                assert (caller.name, caller.id) == ("ann", "jwt:ann")
                assert caller.scopes == {"voice", "audio"}
    assert issuer.fetched == ["/.well-known/openid-configuration", "/keys", "/keys"]


async def test_no_two_subjects_are_one_caller() -> None:
    async with Issuer() as issuer:
        long = "x" * 200
        claims: list[dict[str, Any]] = [
            {"sub": "ann"}, {"sub": "ann\n"}, {"sub": "ann?"}, {"sub": long}, {"sub": f"{long}y"},
            {"sub": None, "client_id": "ann"}, {"sub": None, "azp": "ann"},
        ]  # fmt: skip
        callers = [await tokens(issuer).caller(issuer.token(**given)) for given in claims]
        assert len({caller.id for caller in callers}) == len(claims)
        assert all(caller.name.isprintable() and len(caller.name) <= 128 for caller in callers)
        nobody = await denied(tokens(issuer), issuer.token(sub=None))
        assert (nobody.reason, "`sub`" in str(nobody)) == ("token", True)


async def test_where_scopes_are() -> None:
    async with Issuer() as issuer:
        said: dict[str, Any] = {"scp": ["parley:voice", "x"], "roles": "parley:voice other", "scope": "voice"}
        for claim, value in said.items():
            caller = await tokens(issuer, claim=claim).caller(issuer.token(**{claim: value}))
            assert caller.scopes == {"voice"}
        assert (await tokens(issuer).caller(issuer.token())).scopes == frozenset()


async def test_what_is_refused_and_why() -> None:
    async with Issuer() as issuer, Issuer() as other:
        checked = tokens(issuer)
        for said, token in {
            "issuer: the token is of another issuer": other.token(),
            "audience: the token is for others: its `aud` must hold parley": issuer.token(aud=["x", "y"]),
            "audience: the token has no `aud`": issuer.token(aud=None),
            "expired: the token has expired": issuer.token(in_s=-1),
            "token: the token is not good yet": issuer.token(nbf=4_000_000_000),
            "token: the token has no `exp`": issuer.token(exp=None),
            "token: the token is signed with a key that its issuer does not publish": other.token(
                iss=issuer.url, headers={"kid": "x"}
            ),
            "token: the token's signature is wrong": other.token(iss=issuer.url),
            "token: the token is no JWT": "a.b.c",
            "token: the token has more than": issuer.token(sub="x" * 20_000),
        }.items():
            refusal = await denied(checked, token)
            assert f"{refusal.reason}: {refusal}".startswith(said)
        assert (await checked.caller(issuer.token(aud=["x", "parley"]))).name == "ann"
        assert (await tokens(issuer, leeway_s=30).caller(issuer.token(in_s=-20))).name == "ann"


async def test_no_token_without_a_real_signature() -> None:
    async with Issuer() as issuer:
        checked = tokens(issuer)
        head, body, _ = issuer.token(scope="admin").split(".")
        none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
        shared = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"rsa-1"}').rstrip(b"=").decode()
        public = json.dumps(issuer.published[0]).encode()
        sealed = hmac.digest(public, f"{shared}.{body}".encode(), "sha256")
        forged = base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()
        for token in (
            f"{none}.{body}.",
            f"{head}.{body}.",
            f"{shared}.{body}.{forged}",  # the public key as a shared secret
        ):
            assert (await denied(checked, token)).reason == "token"


async def test_a_key_that_came_later_is_fetched_but_not_too_often() -> None:
    clock = Clock()
    async with Issuer() as issuer:
        checked = tokens(issuer, source=f"{issuer.url}/keys", clock=clock)
        await checked.caller(issuer.token())
        issuer.add("rsa-2", "RS256")
        assert (await denied(checked, issuer.token("rsa-2"))).reason == "token"  # just fetched
        clock.now += AGAIN_S
        callers = await asyncio.gather(*(checked.caller(issuer.token("rsa-2")) for _ in range(20)))
        assert len(callers) == 20
        assert len(issuer.fetched) == 2  # one for all of them
        for number in range(50):
            await denied(checked, issuer.token(headers={"kid": f"invented-{number}"}))
        assert len(issuer.fetched) == 2
        issuer.published = issuer.published[1:]  # the first one is withdrawn
        clock.now += OLD_S
        assert await checked.caller(issuer.token())  # nobody waits for the look in the background
        await checked.close()
        clock.now += AGAIN_S
        await checked.caller(issuer.token("rsa-2"))


async def test_a_withdrawn_key_is_forgotten() -> None:
    clock = Clock()
    async with Issuer() as issuer:
        issuer.add("rsa-2", "RS256")
        keys = KeySet(issuer.url, f"{issuer.url}/keys", clock)
        await keys.key("rsa-1", "RS256")
        issuer.published = issuer.published[1:]
        clock.now += OLD_S
        await keys.key("rsa-1", "RS256")
        while keys._fetching is not None:
            await asyncio.wait({keys._fetching})
        with pytest.raises(Denied):
            await keys.key("rsa-1", "RS256")


async def test_an_issuer_that_is_away() -> None:
    clock = Clock()
    async with Issuer() as issuer:
        issuer.status = 500
        checked = tokens(issuer, source=f"{issuer.url}/keys", clock=clock)
        for _ in range(5):
            refusal = await denied(checked, issuer.token())
            assert refusal.reason == "unavailable"
            assert "it answered with status 500" in str(refusal)
            assert refusal.retry_after_s == FAILED_S
        assert len(issuer.fetched) == 1  # not asked again for each caller
        issuer.status = 200
        clock.now += FAILED_S
        await checked.caller(issuer.token())
        issuer.status = 500
        clock.now += 10 * OLD_S
        await checked.caller(issuer.token())  # what is known stays in force
        await checked.close()


async def test_an_issuer_that_hangs_or_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.identity.key_set.FETCH_S", 0.05)
    async with Issuer() as issuer:
        issuer.hang = True
        refusal = await denied(tokens(issuer), issuer.token())
        assert "did not answer within 0.05 s" in str(refusal)
        issuer.hang = False
        monkeypatch.setattr("gateway.identity.key_set.FETCH_S", 4.0)
        strange = Tokens(issuer.url + "/", "", "", "scope", 0, Clock())
        assert "is of another issuer" in str(await denied(strange, issuer.token(iss=issuer.url + "/")))
    refusal = await denied(tokens(issuer), issuer.token())
    assert "cannot be reached" in str(refusal)
