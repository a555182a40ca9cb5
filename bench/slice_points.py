"""Slices of the gateway as figures: what one cost, what it adds, whether it can be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.slice_gateway import PROTOTYPE, SLICES
from load.report.summary import MOST_CORE_B, MOST_LATE_SEND_MS, NOISY

TITLES = {
    PROTOTYPE: "the bare prototype on grpc.aio: audio both ways, detector, unary calls",
    "transport": "gRPC: audio in and dropped, paced frames out 40 % of the time",
    "vad": "+ detector, every window",
    "unary": "+ a unary call for each 160 ms",
    "session": "the real session instead, parts within the process",
    "shaping": "+ resampling (22.05 → 48 kHz) and levelling",
    "riva": "+ Riva streams",
    "llm": "+ LLM over HTTP",
    "whole": "+ TTS over Triton: the whole gateway",
}
BARE = frozenset((PROTOTYPE, "transport", "vad", "unary"))
WITHIN = 1.10
"""Of the prototype's figure, the slice that carries the same."""
_MOST_LEFT_OUT = 0.01
_REPLIES = 0.4
_REPLIES_OFF = 0.06

Reply = list[tuple[float, float]]
"""(UNIX s, ms late) of each of its frames, in the order they came."""


@dataclass(frozen=True, slots=True)
class Point:
    """One slice under so many callers."""

    name: str
    sessions: int
    seconds: float
    loop_s: float
    """CPU seconds of the event loop's thread."""
    detector_s: float
    """Of the detector's."""
    others_s: float
    """Of gRPC's own, and of all others."""
    frames: int
    """Of the replies that ended."""
    jitter_p99_ms: float
    send_late_ms: float
    """The callers' own lateness: p99 of the worst second."""
    core_b: float
    """Share of their core that callers and emulated parts used."""
    others_a: float = math.nan
    """Share of the gateway's core that other programs used; nan when nothing is kept apart."""
    others_b: float = math.nan
    left_out: float = 0.0
    """Share of its windows that the detector left out, since the gateway began."""

    @property
    def cpu_s(self) -> float:
        return self.loop_s + self.detector_s + self.others_s

    @property
    def cost(self) -> float:
        """CPU s per session-minute."""
        return 60 * self.cpu_s / (self.sessions * self.seconds)

    @property
    def core(self) -> float:
        """Share of a core."""
        return self.cpu_s / self.seconds

    @property
    def reply_share(self) -> float:
        """Of the time; 0.4 is meant."""
        return self.frames * 0.020 / (self.sessions * self.seconds)

    def void(self) -> list[str]:
        """Why the figures do not speak of the gateway."""
        reasons = []
        if self.send_late_ms > MOST_LATE_SEND_MS:
            reasons.append(f"the callers sent up to {self.send_late_ms:.1f} ms late")
        if self.core_b > MOST_CORE_B:
            reasons.append(f"callers and emulated parts used {self.core_b:.0%} of their core")
        if self.left_out > _MOST_LEFT_OUT:
            reasons.append(
                f"the detector was so far behind that it left out {self.left_out:.1%} of its windows"
            )
        if self.sessions > 1 and abs(self.reply_share - _REPLIES) > _REPLIES_OFF:
            reasons.append(f"replies took {self.reply_share:.0%} of the time, {_REPLIES:.0%} are meant")
        return reasons

    def disturbed(self) -> str:
        """What other programs used of the cores; empty when that is little."""
        used = [
            f"{share:.0%} of the {whose} core"
            for whose, share in (("gateway's", self.others_a), ("callers'", self.others_b))
            if share > NOISY
        ]
        return f"other programs used {' and '.join(used)}" if used else ""


def added(points: Sequence[Point]) -> list[float]:
    """CPU s per session-minute over the slice before; of the first, all of it. The real session takes the place
    of the bare one: what it adds is over the detector's slice, for it makes no unary calls."""
    cost = {point.name: point.cost for point in points}
    chain = [name for name in SLICES if name != PROTOTYPE]
    before = dict(zip(chain[1:], chain, strict=False)) | {"session": "vad"}
    return [p.cost - cost.get(before[p.name], math.nan) if p.name in before else p.cost for p in points]


def ratio(points: Sequence[Point], sessions: int) -> float:
    """Of the slice with detector and unary calls to the prototype in the same run; nan without both."""
    cost = {point.name: point.cost for point in points if point.sessions == sessions}
    return cost.get("unary", math.nan) / cost.get(PROTOTYPE, math.nan)


def heard(replies: Sequence[Reply], begin_s: float, end_s: float) -> tuple[list[float], int]:
    """(lateness of the frames that came in a window of time, ms; number of frames of the replies that ended in
    it: as many as came, by and large, and those that had not ended yet were not written down)."""
    late = [ms for reply in replies for at, ms in reply if begin_s <= at <= end_s]
    return late, sum(len(reply) for reply in replies if begin_s <= reply[-1][0] <= end_s)
