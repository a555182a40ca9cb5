"""When a turn ends: how soon the reply begins, how often it begins too soon, and what guessing throws away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.caller import Address, Caller
from bench.noise import room
from bench.pauses import Line
from bench.speech import Clip
from bench.stats import FAILED
from gateway.session import events as ev

_REPLY_S = 6.0
_LISTEN_S = 0.3
_PAUSE_S = 0.7


@dataclass(slots=True)
class Turns:
    """What came of many turns."""

    turns: int = 0
    early: int = 0
    """A reply became audible before the true end of speech."""
    merged: int = 0
    """The turn was taken for over before its end, and the speech that followed put that right unheard."""
    voice_to_voice: list[float] = field(default_factory=list)
    """ms, true end of speech → first reply audio at the client; of turns that did not end early."""
    log: list[dict[str, object]] = field(default_factory=list)

    @property
    def early_share(self) -> float:
        return self.early / self.turns if self.turns else 0.0


async def converse(
    address: Address,
    lines: Sequence[Line],
    result: Turns,
    *,
    configure: ev.Configure | None = None,
    seed: int = 1,
    about_to_say: Callable[[Line], None] = lambda line: None,
) -> None:
    """One session in which every line is a turn. Raises CallFailed."""
    chance = random.Random(seed)
    async with Caller(address, configure=configure, sources=(room(chance.randrange(1 << 30)),)) as caller:
        await asyncio.sleep(0.5 + chance.random())  # sessions do not march in step
        for line in lines:
            about_to_say(line)
            await _turn(caller, line.clip, result)
            await asyncio.sleep(_PAUSE_S * (0.75 + 0.5 * chance.random()))


async def _turn(caller: Caller, clip: Clip, result: Turns) -> None:
    said = await caller.microphone.say(clip)
    loop = asyncio.get_running_loop()
    reply = await caller.until(lambda: caller.reply_after(said.end), said.end + _REPLY_S - loop.time())
    early = [r for r in caller.replies if r.first_at is not None and said.onset <= r.first_at < said.end]
    ends = [at for at, _ in caller.of(ev.SpeechStopped, said.onset) if at < said.end]
    result.turns += 1
    result.early += bool(early)
    result.merged += bool(ends) and not early
    first_at = reply.first_at if reply is not None else None
    if not early:
        result.voice_to_voice.append((first_at - said.end) * 1000 if first_at is not None else FAILED)
    result.log.append(
        {
            "clip": clip.name,
            "early": bool(early),
            "merged": bool(ends) and not early,
            "heard": [t.text for _, t in caller.of(ev.Transcript, said.began) if t.final],
            "voice_to_voice": None if early else result.voice_to_voice[-1],
        }
    )
    await asyncio.sleep(_LISTEN_S)
    await caller.quiet()
