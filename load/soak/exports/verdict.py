"""What became of the exports, in sentences and a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

from gateway.triton.proof.fronts import SESSION
from gateway.triton.proof.graphs import REPLAYED
from gateway.triton.proof.proved import Proved
from gateway.triton.proof.served import TRITON
from load.run.soaking import Outcome
from load.soak.exports.kinds import Kind

COLUMNS = (
    "family", "configuration", "seeds", "graphs", "outputs compared", "worst difference", "of what is allowed",
    "states replayed", "a session on Triton", "export, s", "CPU, s",
)  # fmt: skip


@dataclass(slots=True)
class Made:
    """One export, and what was proved of it."""

    seed: int
    seconds: float
    cpu_s: float
    failed: str = ""
    """Why there is nothing to prove."""
    graphs: int = 0
    proofs: list[Proved] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.failed and bool(self.proofs) and all(one.ok for one in self.proofs)

    @property
    def on_graphs(self) -> list[Proved]:
        return [one for one in self.proofs if one.how != SESSION]

    @property
    def whys(self) -> list[str]:
        if self.failed:
            return [f"seed {self.seed}: not exported: {self.failed}"]
        return [f"seed {self.seed}: {one.model}, {one.how}: {one.note}" for one in self.proofs if not one.ok]


@dataclass(slots=True)
class Part:
    kind: Kind
    made: list[Made]

    @property
    def proofs(self) -> list[Proved]:
        return [one for made in self.made for one in made.proofs]


def outcome(parts: Sequence[Part], *, seconds: float) -> Outcome:
    exports = [made for part in parts for made in part.made]
    good = sum(made.ok for made in exports)
    compared = sum(one.compared for made in exports for one in made.on_graphs)
    families = len({part.kind.family for part in parts})
    ok = bool(exports) and good == len(exports)
    findings = [
        f"{len(exports)} exports of {families} families in {len(parts)} configurations, {seconds:.0f} s: "
        f"{'each equals torch wherever it runs' if ok else f'NOT FINE, {len(exports) - good} of them differ or failed'}.",
        f"{compared:,} outputs of graphs were compared with what torch said: in ONNX Runtime, where there are states also "
        "with these as Triton's own would be carried, and on a real Triton.",
        "A session sends whole utterances in chunks of 20, 160 and 480 ms and of random length, or hears whole sentences.",
    ]
    if not any(one.how == TRITON for part in parts for one in part.proofs):
        findings.append("Nothing ran on Triton: this machine has none.")
    for part in parts:
        findings += [
            f"{part.kind.family} ({part.kind.what}), {why}." for made in part.made for why in made.whys
        ]
    data = {
        f"{part.kind.family} {part.kind.what}": [
            asdict(made) | {"proofs": [_plain(one) for one in made.proofs]} for made in part.made
        ]
        for part in parts
    }
    return Outcome("Soak: exports", ok, findings, COLUMNS, [_row(part) for part in parts], {"exports": data})


def _row(part: Part) -> tuple[str, ...]:
    made = part.made
    graphs = [one for each in made for one in each.on_graphs]
    worst = max(graphs, key=_share, default=None)
    return (
        part.kind.family,
        part.kind.what,
        f"{sum(one.ok for one in made)} of {len(made)}",
        str(max((one.graphs for one in made), default=0)),
        f"{sum(one.compared for one in graphs):,}",
        "-" if worst is None else f"{worst.worst:.1e}",
        "-" if worst is None else f"{100 * _share(worst):.0f} %",
        _verdict([one for one in graphs if one.how == REPLAYED]),
        _session([one for each in made for one in each.proofs if one.how == SESSION]),
        f"{median(one.seconds for one in made):.0f}",
        f"{median(one.cpu_s for one in made):.0f}",
    )


def _share(one: Proved) -> float:
    """Of what is allowed; an output that must be identical and is, 0."""
    if one.limit:
        return one.worst / one.limit
    return 0.0 if not one.worst else math.inf


def _verdict(found: Sequence[Proved]) -> str:
    if not found:
        return "-"
    return "equal" if all(one.ok for one in found) else "differ"


def _session(found: Sequence[Proved]) -> str:
    if not any(one.compared for one in found):
        return "-" if all(one.ok for one in found) else "failed"
    count = sum(one.compared for one in found)
    worst = max(one.worst for one in found)
    if found[0].unit == "dB":
        return f"{worst:.0f} dB at worst, of {count}"
    return f"{sum(one.worst for one in found):.0f} wrong of {count}"


def _plain(one: Proved) -> dict[str, object]:
    return asdict(one) | {"worst": one.worst if math.isfinite(one.worst) else None}
