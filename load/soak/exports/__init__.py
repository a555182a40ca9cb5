"""Every family is exported anew, several times with other weights, and proved equal to torch wherever it runs."""

from __future__ import annotations

import asyncio
import resource
import shutil
import time
from pathlib import Path

from gateway.triton.errors import TritonError
from gateway.triton.exported.environment import ExportUnavailable, ensure_environment, variables
from gateway.triton.proof.prove import graphs_of, is_exported, prove
from gateway.triton.proof.proved import failed
from load.run.child import Child, Failed
from load.run.soaking import Outcome, Soak
from load.soak.exports.kinds import KINDS, SHORT, Kind
from load.soak.exports.verdict import Made, Part, outcome

ABOUT = "every family exported anew in all its configurations, three seeds each, and proved equal to torch"
_SEEDS, _SHORT_SEEDS = 3, 1
_EXPORT_S = 600.0
_PROVE_S = 900.0


async def run(soak: Soak) -> Outcome:
    """Raises Failed."""
    if soak.at_once > 1:
        raise Failed("exports are made one after the other: their CPU time is measured")
    try:
        python = await ensure_environment(lambda text: print(f"  {text}", flush=True))
    except ExportUnavailable as unavailable:
        raise Failed(str(unavailable)) from None
    began = time.monotonic()
    parts: list[Part] = []
    for kind in SHORT if soak.short else KINDS:
        part = Part(kind, [])
        parts.append(part)
        for seed in range(soak.count or (_SHORT_SEEDS if soak.short else _SEEDS)):
            part.made.append(await _one(kind, seed, python, soak.out))
            print(f"  {_told(kind, part.made[-1])}, {time.monotonic() - began:.0f} s", flush=True)
    return outcome(parts, seconds=time.monotonic() - began)


async def _one(kind: Kind, seed: int, python: Path, out: Path) -> Made:
    repository = out / "models"
    await asyncio.to_thread(shutil.rmtree, repository, ignore_errors=True)
    command = [
        str(python), "-m", "parley_export", kind.family, "random:small", "--out", str(repository), "--seed", str(seed),
        *(f"--option={one}" for one in kind.options),
    ]  # fmt: skip
    before, began = _children_s(), time.monotonic()
    async with Child(
        f"the export of {kind.family}", command, log=out / "export.log", env=variables()
    ) as child:
        try:
            async with asyncio.timeout(_EXPORT_S):
                code = await child.wait()
        except TimeoutError:
            code = -1
    made = Made(seed, time.monotonic() - began, _children_s() - before)
    if code:
        made.failed = child.last_words() if code > 0 else f"it took more than {_EXPORT_S:.0f} s"
        return made
    front = next(folder for folder in sorted(repository.iterdir()) if is_exported(folder))
    made.graphs = len(graphs_of(front))
    try:
        async with asyncio.timeout(_PROVE_S):
            made.proofs = await prove(front)
    except (TritonError, OSError, ValueError, KeyError, TimeoutError) as error:
        made.proofs = [failed(front.name, "proof", f"{type(error).__name__}: {error}")]
    if made.ok:
        await asyncio.to_thread(shutil.rmtree, repository, ignore_errors=True)
    else:  # to be looked at
        await asyncio.to_thread(shutil.move, repository, _kept(out, kind, seed))
    return made


def _kept(out: Path, kind: Kind, seed: int) -> Path:
    """Where a failed one's folders stay; nothing of an earlier run is there."""
    what = "".join(one if one.isalnum() else "-" for one in f"{kind.family} {kind.what} {seed}")
    place = out / "failed" / what
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(exist_ok=True)
    return place


def _children_s() -> float:
    """CPU of processes that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _told(kind: Kind, made: Made) -> str:
    said = "equal" if made.ok else "; ".join(made.whys)
    return f"{kind.family} ({kind.what}), seed {made.seed}: {said}; exported in {made.seconds:.0f} s"
