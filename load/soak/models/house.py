"""The stack that the models soak runs: real Triton, speech service, stand-in LLM, gateway; a repository of its own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.triton.server import EmbeddedTriton
from load.run.child import ROOT, Child, Failed
from load.run.soaking import Soak
from load.run.stage import GatewayUp, Parts, gateway_up

_START_S = 60.0
_TESTED = ROOT / "tests" / "data" / "models"
_SHIPPED = ROOT / "model_repository"


@dataclass(frozen=True, slots=True)
class Kind:
    """Which models the calls use."""

    name: str
    asr: Path
    tts: Path
    callers: int
    further: Path
    """What the models that come and go are copies of."""
    at_once: int
    """How many of them: what a load costs must not starve the calls, which is another measurement."""
    roll_pause_s: float
    probes: int

    @property
    def models(self) -> tuple[str, str]:
        return self.asr.name, self.tts.name

    @property
    def third(self) -> list[str]:
        """The models that come and go, side by side: an unload waits a second for the model's process to end."""
        return ["tts_third", "tts_fourth"][: self.at_once]


REAL = Kind(
    "real", _SHIPPED / "asr_pocketsphinx", _SHIPPED / "tts_flite", 4, _TESTED / "tts_light", 2, 5.0, 1
)
LIGHT = Kind("light", _TESTED / "asr_light", _TESTED / "tts_light", 32, _TESTED / "tts_light", 2, 3.0, 2)


@dataclass(frozen=True, slots=True)
class House:
    kind: Kind
    repository: Path
    triton: EmbeddedTriton
    gateway: GatewayUp
    speech: Child


@asynccontextmanager
async def house_up(soak: Soak, kind: Kind, out: Path) -> AsyncIterator[House]:
    """Raises Failed."""
    repository = out / "repository"
    shutil.rmtree(repository, ignore_errors=True)
    for source in (kind.asr, kind.tts):
        put_model(source, repository / source.name)
    for name in kind.third:
        put_model(kind.further, repository / name)
    asr, tts = kind.models
    common = {
        "PARLEY_TRITON__REPOSITORIES": str(repository),
        "PARLEY_MODELS__ASR": asr,
        "PARLEY_MODELS__TTS": tts,
        "PARLEY_MODELS__MIN_RESIDENCY_S": "0",
    }
    async with AsyncExitStack() as stack:
        triton = await stack.enter_async_context(EmbeddedTriton([repository], log_dir=out))
        speech, riva = await _child(
            stack, out, "speech", ["--riva", "127.0.0.1:0", "--triton", triton.grpc], "riva", common
        )
        llm, base_url = await _child(stack, out, "llm", ["--listen", "127.0.0.1:0"], "llm", {})
        parts = Parts(llm, riva, base_url, triton.grpc, "")
        settings = (*(f"{key}" for key in _plain(common)), *soak.settings)
        gateway = await stack.enter_async_context(gateway_up(out, parts, settings, 1, soak.gateway_cores))
        yield House(kind, repository, triton, gateway, speech)


async def _child(
    stack: AsyncExitStack, out: Path, part: str, options: list[str], key: str, env: dict[str, str]
) -> tuple[Child, str]:
    command = [sys.executable, "-m", "gateway.cli", "serve", part, *options]
    child = Child(f"the {part} part", command, log=out / f"{part}.log", env=env, talks=True)
    await stack.enter_async_context(child)
    line = await child.line(_START_S)
    words = line.partition(": ")[2].split()
    if key not in words:
        raise Failed(f"the {part} part said {line[:80]!r} instead of its address")
    return child, words[words.index(key) + 1]


def _plain(env: dict[str, str]) -> list[str]:
    """PARLEY_A__B=c as a.b=c."""
    return [f"{key.removeprefix('PARLEY_').lower().replace('__', '.')}={value}" for key, value in env.items()]


def put_model(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise Failed(f"there is no model {source.name} to soak")
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    config = target / "config.pbtxt"
    lines = [line for line in config.read_text().splitlines() if not line.startswith("name:")]
    config.write_text("\n".join([f'name: "{target.name}"', *lines]) + "\n")
