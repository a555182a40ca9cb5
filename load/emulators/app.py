"""All emulated parts in one process: opened together, changed together, closed together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from load.emulators.asr import Recognition
from load.emulators.control import Control
from load.emulators.distributions import Draws
from load.emulators.faults import Faults, Part
from load.emulators.llm import Chat
from load.emulators.pace import Pace
from load.emulators.ports import GrpcPort, HttpPort, Port
from load.emulators.profile import Profile
from load.emulators.proxies import Proxies
from load.emulators.stats import Stats
from load.emulators.tts import Speech

ANY = "127.0.0.1:0"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the emulated parts are."""

    asr: str
    """host:port, Riva's gRPC."""
    llm: str
    """Base URL that ends in /v1."""
    triton: str
    """host:port, KServe's gRPC."""
    control: str
    """Base URL."""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


class Emulators:
    """The three parts and their control. Must be made on the event loop that serves them."""

    def __init__(
        self,
        profile: Profile | None = None,
        *,
        seed: int = 1,
        asr: str = ANY,
        llm: str = ANY,
        triton: str = ANY,
        control: str = ANY,
    ) -> None:
        """asr, llm, triton, control: host:port; port 0 takes any. Raises: BadProfile."""
        self.stats = Stats()
        self.faults = Faults()
        self.profile = profile or Profile()
        draws, pace = Draws(seed), Pace()
        self._asr = Recognition(self.profile.asr, draws, self.faults, self.stats.asr, pace)
        self._llm = Chat(self.profile.llm, draws, self.faults, self.stats.llm, pace)
        self._tts = Speech(self.profile.tts, draws, self.faults, self.stats.tts, pace)
        self.ports: dict[Part, Port] = {
            "asr": GrpcPort(asr, self._asr.handlers()),
            "llm": HttpPort(llm, self._llm.routes()),
            "tts": GrpcPort(triton, self._tts.handlers()),
        }
        orders = Control(self.stats, self.faults, self.ports, self.change, lambda: self.profile.tts.model)
        self.proxies = Proxies()
        self._control = HttpPort(control, [*orders.routes(), *self.proxies.routes()])

    async def open(self) -> Addresses:
        """Raises: OSError, an address cannot be had."""
        try:
            for port in (*self.ports.values(), self._control):
                await port.open()
        except BaseException:
            await self.close()
            raise
        asr, llm, tts = (self.ports[part].address for part in ("asr", "llm", "tts"))
        return Addresses(asr, f"http://{llm}/v1", tts, f"http://{self._control.address}")

    async def close(self) -> None:
        """At once; what is open is cut."""
        await self.proxies.close()
        for port in (self._control, *self.ports.values()):
            await port.close()

    def change(self, raw: Mapping[str, Any]) -> None:
        """Put a partial profile over the present one, for requests to come. Raises: BadProfile."""
        profile = self.profile.changed(raw)
        self._asr.set_profile(profile.asr)
        self._llm.profile = profile.llm
        self._tts.set_profile(profile.tts)
        self.profile = profile


@asynccontextmanager
async def emulators(profile: Profile | None = None, *, seed: int = 1) -> AsyncIterator[Addresses]:
    """Emulators in this process, on free ports, for the length of a `with` block."""
    running = Emulators(profile, seed=seed)
    addresses = await running.open()
    try:
        yield addresses
    finally:
        await running.close()
