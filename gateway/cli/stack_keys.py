"""What the processes of `parley up` show each other where callers must show credentials."""

from __future__ import annotations

import secrets
import time
from typing import Any

from gateway.identity import configured
from gateway.identity.client_secrets import Sealer
from gateway.identity.keys import new_key
from gateway.settings import Settings


class StackKeys:
    """Made at each start and known to nobody else. Without credentials in the settings it changes nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._needed = settings, configured(settings.auth)
        self._internal = new_key()
        self._sealing = settings.auth.sealing_key.get_secret_value() or secrets.token_urlsafe(32)

    def tell(self, told: dict[str, dict[str, Any]], *, own_llm: bool) -> None:
        """Adds to what each part is told: the gateway's key at the speech service and at the stand-in LLM, unless
        the person named others, and one sealing key."""
        if not self._needed:
            return
        given = self._settings
        for part in told.values():
            part.setdefault("auth", {})["sealing_key"] = self._sealing
        known = [key.get_secret_value() for key in given.auth.api_keys]
        told["speech"]["auth"]["api_keys"] = [*known, self._internal]
        gateway = told["gateway"]
        for name, section in (("asr", given.asr), ("tts", given.tts)):
            if "uri" in gateway.get(name, {}) and not section.api_key.get_secret_value():
                gateway[name]["api_key"] = self._internal
        stand_in = given.stand_in.api_key.get_secret_value() or self._internal
        if own_llm:
            told["llm"]["stand_in"] = {"api_key": stand_in}
            if not given.llm.api_key.get_secret_value():
                gateway["llm"]["api_key"] = stand_in

    def headers(self) -> dict[str, str]:
        """For the operators' pages, for a minute."""
        if not self._needed:
            return {}
        return {"authorization": f"Bearer {Sealer(self._sealing).own_token(time.time())}"}
