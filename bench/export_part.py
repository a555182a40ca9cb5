"""Exported models as a part of the report: each family in torch, in ONNX Runtime and on Triton; kept as it is found."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import export_triton
from bench.export_plan import FAMILIES, Plan
from bench.export_tables import tables
from bench.exports import ExportFailed, kept
from bench.machine import cpu_model
from bench.report import Part
from gateway.app import run_loop
from gateway.cli.common import Fault
from gateway.triton.errors import TritonError
from gateway.triton.exported.environment import (
    CHECKOUT,
    SOURCES,
    ExportUnavailable,
    cache_folder,
    ensure_environment,
)

_STEP_S = 300.0
"""Longest for one family in torch, or in the front's process."""
UNLIKE = 0.05
"""From here on what torch and the front said of the same sentence is not of the same length."""


class NotMeasured(Exception):
    """`str()` says why."""


def main(families: Sequence[str] = (), *, quick: bool = False, again: bool = False) -> Part:
    """again: also what was measured before, by the same code on the same processor. Raises: Fault."""
    plan = Plan.short() if quick else Plan()
    chosen = [family for family in FAMILIES if family in families or not families]
    if unknown := sorted(set(families) - set(FAMILIES)):
        raise Fault(f"there is no family {', '.join(unknown)}: choose of {', '.join(FAMILIES)}")
    try:
        python = asyncio.run(ensure_environment(_say))
    except ExportUnavailable as error:
        raise Fault(str(error)) from None
    found: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    for family in chosen:
        try:
            found[family] = measured(family, plan, python, again=again)
        except (NotMeasured, ExportFailed, TritonError) as error:
            failed.append(f"{family} ({error})")
            _say(f"{failed[-1]} was not measured")
    if not found:
        raise Fault(f"not measured: {'; '.join(failed)}")
    return report(found, plan, failed)


def report(found: dict[str, dict[str, Any]], plan: Plan, failed: Sequence[str] = ()) -> Part:
    part = Part(
        "export",
        "Exported models",
        "Random weights of the real architectures, on CPU, one thread each; nothing here ran on a GPU. CPU seconds for one "
        "second of audio, the least of "
        f"{plan.repeats}: torch is transformers' own generation or forward pass over the whole utterance; ONNX Runtime is "
        "the front and its graphs in one process, the utterance at once (recognisers) or streamed (voices); Triton is a "
        "session's requests to the real server, server and model process together: recognisers in real time in chunks of "
        "160 ms, with every partial transcript, all beginning and ending within 160 ms. Streams per core is one by that. What random weights say has the length of "
        "speech, not its sense.",
        failed=list(failed),
    )
    part.tables = tables(found, plan)
    part.findings = _findings(found)
    part.data = found
    return part


def measured(family: str, plan: Plan, python: Path, *, again: bool = False) -> dict[str, Any]:
    """One family. What the same code found on the same processor is not measured again unless asked for.

    Raises: NotMeasured, ExportFailed, TritonError.
    """
    began = time.monotonic()
    folder, alone = ("exports", False) if plan.quick else ("exports-bench", True)
    made = kept(family, plan.checkpoint(family), options=plan.options(family), folder=folder, alone=alone)
    name = f"{family}-{'quick' if plan.quick else 'full'}"
    place = cache_folder() / "bench-export" / f"{name}-{_key(made.models, plan)}.json"
    if place.exists() and not again:
        found: dict[str, Any] = json.loads(place.read_text("utf-8"))
        _say(f"{family}: as it was measured at {found['at']}")
        return found | {"kept": True}
    model = next(path for path in sorted(made.models.iterdir()) if path.name.startswith(("asr_", "tts_")))
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as work_folder:
        work, told = Path(work_folder) / "work.npz", Path(work_folder) / "found.json"
        asked, how = [str(model), str(work), str(told)], ["quick"] if plan.quick else []
        front = _run([sys.executable, "-m", "bench.export_front", *asked, *how], told)
        asked = [family, plan.checkpoint(family), str(work), str(plan.repeats), str(told)]
        torch = _run([str(python), "-m", "bench.export_torch", *asked, *plan.options(family)], told)
        triton = run_loop(export_triton.measure(model, work, plan))
    found = {
        "front": front,
        "torch": torch,
        "triton": triton,
        "export": {"cpu_s": made.cpu_s, "wall_s": made.wall_s},
        "disk_mb": _size_mb(made.models),
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": time.monotonic() - began,
    }
    place.parent.mkdir(parents=True, exist_ok=True)
    for old in place.parent.glob(f"{name}-*.json"):
        old.unlink()
    place.write_text(json.dumps(found), "utf-8")
    _say(f"{family} took {found['seconds']:.0f} s")
    return found


def _run(command: list[str], told: Path) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | {
        "PYTHONPATH": f"{SOURCES}{os.pathsep}{CHECKOUT}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    try:
        ran = subprocess.run(
            command,
            env=environment,
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=_STEP_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"{command[2]} was not done after {_STEP_S:.0f} s") from None
    if ran.returncode:
        raise NotMeasured(
            f"{command[2]} ended with {ran.returncode}: {ran.stderr.strip().splitlines()[-1][:400]}"
        )
    found: dict[str, Any] = json.loads(told.read_text("utf-8"))
    return found


def _key(models: Path, plan: Plan) -> str:
    """Of the export, everything that runs it, how it is measured, and the processor."""
    digest = hashlib.sha256(f"{models.parent.name} {plan} {cpu_model()}".encode())
    sources = [*(CHECKOUT / "gateway" / "triton").rglob("*.py"), *(CHECKOUT / "bench").glob("export_*.py")]
    for path in sorted(path for path in sources if path.name not in ("export_part.py", "export_tables.py")):
        digest.update(str(path.relative_to(CHECKOUT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _size_mb(models: Path) -> float:
    """What a server needs: without the references."""
    files = [
        path
        for path in models.rglob("*")
        if path.is_file() and "reference" not in str(path.relative_to(models))
    ]
    return sum(path.stat().st_size for path in files) / 1e6


def _findings(found: dict[str, dict[str, Any]]) -> list[str]:
    told = []
    before = [f"{family} ({one['at']})" for family, one in found.items() if one.get("kept")]
    if before:
        told.append(f"measured earlier by the same code on the same processor: {', '.join(before)}")
    for family, one in found.items():
        said, seconds, others = one["torch"]["said"], one["front"]["audio_s"], one["torch"]["audio_s"]
        if one["front"]["kind"] == "asr":
            told.append(f"{family}: {said} tokens in {others:g} s, {one['front']['words']} words")
        elif abs(others - seconds) > UNLIKE * seconds:
            told.append(f"{family}: torch spoke for {others:.1f} s, the front for {seconds:.1f} s")
    return told


def _say(text: str) -> None:
    print(f"[export] {text}", file=sys.stderr, flush=True)
