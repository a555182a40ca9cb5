"""What the processes of `parley up` show each other."""

from __future__ import annotations

from typing import Any

from gateway.cli.stack_keys import StackKeys
from gateway.identity import ADMIN, SPEECH, VOICE, Identity, credential
from gateway.settings import Settings


def told() -> dict[str, dict[str, Any]]:
    return {
        "gateway": {"asr": {"uri": "x:1"}, "tts": {"uri": "x:1"}, "llm": {"base_url": "http://x"}},
        "speech": {},
        "llm": {},
    }


def settings(given: Settings, more: dict[str, Any]) -> Settings:
    """As a child has them: what it is told over what the environment says."""
    known = {"auth": {"api_keys": [key.get_secret_value() for key in given.auth.api_keys]}}
    return Settings(**{name: known.get(name, {}) | part for name, part in {**known, **more}.items()})


async def test_they_know_each_other() -> None:
    given = Settings(auth={"api_keys": ["mine"]})
    parts = told()
    keys = StackKeys(given)
    keys.tell(parts, own_llm=True)
    gateway, speech, llm = (settings(given, parts[name]) for name in ("gateway", "speech", "llm"))
    front, gate = Identity(speech.auth), Identity(gateway.auth)
    for section in (gateway.asr, gateway.tts):
        assert await front.caller(section.api_key.get_secret_value(), SPEECH)
    assert await front.caller("mine", SPEECH)
    assert await gate.caller("mine", VOICE)
    assert llm.stand_in.api_key.get_secret_value() == gateway.llm.api_key.get_secret_value() != ""
    operator = credential(keys.headers()["authorization"])
    for identity in (front, gate):
        assert (await identity.caller(operator, ADMIN)).name == "parley"


def test_what_the_person_set_stays() -> None:
    given = Settings(
        auth={"api_keys": ["mine"], "sealing_key": "s" * 40}, asr={"api_key": "a"}, llm={"api_key": "l"},
        stand_in={"api_key": "s"},
    )  # fmt: skip
    parts = told()
    del parts["gateway"]["tts"]  # another's, which gets no key of ours
    StackKeys(given).tell(parts, own_llm=True)
    assert parts["gateway"]["asr"] == {"uri": "x:1"}
    assert "tts" not in parts["gateway"]
    assert parts["gateway"]["llm"] == {"base_url": "http://x"}
    assert parts["llm"]["stand_in"] == {"api_key": "s"}
    assert parts["speech"]["auth"]["sealing_key"] == "s" * 40


def test_without_credentials_nothing_changes() -> None:
    parts = told()
    keys = StackKeys(Settings())
    keys.tell(parts, own_llm=True)
    assert parts == told()
    assert keys.headers() == {}
