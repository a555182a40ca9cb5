"""A key file that is read live: each use looks whether it has changed."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from gateway.identity.keys import BadKeys, Keys, read_keys

log = logging.getLogger(__name__)

_MOST_BYTES = 16 * 2**20
_READ_S = 5.0

_Stamp = tuple[int, int, int, int]


class KeyFile:
    """Belongs to one event loop. A file that cannot be used leaves what was read before in force."""

    def __init__(self, path: Path) -> None:
        """Reads it. Raises BadKeys when it cannot be used: a start without keys would let nobody in."""
        self.path = path
        stamp = self._stamp()
        try:
            self.keys = _read(path)
        except BadKeys as error:
            raise BadKeys(f"the key file {path} cannot be used: {error}") from None
        self._seen: _Stamp | None = stamp
        self._reading: asyncio.Task[None] | None = None

    async def fresh(self) -> Keys:
        """The keys as the file has them now. A look at an unchanged file is one `stat`, some microseconds."""
        if self._reading is not None or self._stamp() != self._seen:
            if self._reading is None:
                self._reading = asyncio.create_task(self._read_again())
                self._reading.add_done_callback(self._read_is_over)
            # Shielded: the caller that came first may go away, and others wait for the same file.
            await asyncio.wait({self._reading}, timeout=_READ_S)
        return self.keys

    async def close(self) -> None:
        if self._reading is not None:
            await asyncio.wait({self._reading})

    def _stamp(self) -> _Stamp | None:
        """Changes with the file: also when another takes its place, as Kubernetes does with Secrets."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size

    async def _read_again(self) -> None:
        stamp = self._stamp()
        try:
            self.keys = await asyncio.to_thread(_read, self.path)
        except BadKeys as error:
            log.error("the key file %s cannot be used, so the keys read before stay: %s", self.path, error)
        else:
            log.info("read %d API keys from %s", len(self.keys.records), self.path)
        self._seen = stamp

    def _read_is_over(self, reading: asyncio.Task[None]) -> None:
        self._reading = None
        if not reading.cancelled() and (error := reading.exception()):
            log.error("the key file %s could not be read", self.path, exc_info=error)


def _read(path: Path) -> Keys:
    """Raises BadKeys."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
        if len(raw) > _MOST_BYTES:
            raise BadKeys(f"it has more than {_MOST_BYTES >> 20} MiB")
        return read_keys(raw.decode())
    except OSError as error:
        raise BadKeys(error.strerror or type(error).__name__) from None
    except UnicodeDecodeError:
        raise BadKeys("it is no UTF-8 text") from None
