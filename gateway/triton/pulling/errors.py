"""What may end a pull. `str()` is one sentence for a person."""

from __future__ import annotations


class PullError(Exception):
    """Nothing was put in place; what was transferred stays, where the sentence does not say that it was deleted."""


class Unreachable(PullError):
    """The network, or the host: trying again later may help, another way of asking does not."""


class LicenceRefused(PullError):
    """The licence was not accepted."""


class CatalogueError(PullError):
    """A catalogue file that cannot be used, with its place."""
