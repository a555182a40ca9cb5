"""Identity as a service has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.settings import AuthSettings

if TYPE_CHECKING:
    from gateway.identity import Identity
    from gateway.identity.limits import Counting


def identity_of(auth: AuthSettings, counting: Counting | None = None) -> Identity:
    """Raises OSError when the settings' credentials cannot be used: nothing may be served without them."""
    from gateway.identity import BadKeys, Identity

    try:
        return Identity(auth, counting=counting)
    except (BadKeys, ValueError) as error:
        raise OSError(str(error)) from None
