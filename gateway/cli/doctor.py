"""`parley doctor`: what this machine lacks, with the command that fixes it, and what runs."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import sys
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.app import split_address
from gateway.cli import endpoints
from gateway.cli.common import FAILED, OK, Fault, run
from gateway.cli.stack import default_listen, free_address
from gateway.triton.preflight import check_host

_EPILOG = """\
examples:
  parley doctor
  parley doctor --json

exit codes: 0 the stack can run here, 1 something that it needs is missing.
"""
_DIAL_S = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    state: str
    """ok, note or missing."""
    what: str
    detail: str
    fix: str = ""
    """The command, where there is one."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    parser.set_defaults(run=lambda options: run(_doctor(options)))


async def _doctor(options: argparse.Namespace) -> int:
    findings = await asyncio.to_thread(lambda: [*_host(), *_optional(), *_ports()]) + await _running()
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    return FAILED if any(finding.state == "missing" for finding in findings) else OK


def _host() -> list[Finding]:
    found = [Finding("missing" if p.fatal else "note", p.what, p.detail, p.fix) for p in check_host()]
    version = ".".join(map(str, sys.version_info[:3]))
    if not any(finding.state == "missing" for finding in found):
        found.insert(0, Finding("ok", "embedded Triton", f"runs here, with Python {version}"))
    return found


def _optional() -> list[Finding]:
    parts = [
        ("recogniser", "pocketsphinx", "asr_pocketsphinx understands careful English", "pip install 'parley[embedded]'"),
        ("espeak voice", "espeakng_loader", "tts_espeak speaks many languages", "pip install 'parley[espeak]'"),
        ("microphone", "sounddevice", "parley talk --mic", "pip install 'parley[mic]'"),
    ]  # fmt: skip
    found = [
        Finding("ok", name, what)
        if importlib.util.find_spec(module)
        else Finding("note", name, f"not installed: {what}", fix)
        for name, module, what, fix in parts
    ]
    if sys.platform == "linux":
        from ctypes.util import find_library

        if not find_library("portaudio"):
            fix = "apt-get install libportaudio2"
            found.append(Finding("note", "PortAudio", "not installed: parley talk --mic needs it", fix))
        if find_library("flite_cmu_us_slt"):
            found.append(Finding("ok", "flite voice", "tts_flite is the easier one to understand"))
        else:
            fix = "apt-get install libflite1"
            found.append(
                Finding(
                    "note", "flite voice", "not installed: tts_flite is the easier one to understand", fix
                )
            )
    return found


def _ports() -> list[Finding]:
    if endpoints.default_path().exists():
        return []  # a stack runs: its ports are taken, rightly
    findings = []
    for key, wanted in default_listen().items():
        chosen = free_address(wanted)
        detail = f"{wanted} is free" if chosen == wanted else f"{wanted} is taken: another port will be used"
        findings.append(Finding("ok" if chosen == wanted else "note", f"port of {key}", detail))
    return findings


async def _running() -> list[Finding]:
    try:
        found = endpoints.read()
    except Fault as fault:
        return [Finding("note", "running stack", str(fault))]
    if found is None:
        return [Finding("note", "running stack", "none", "parley up")]
    results = await asyncio.gather(
        *(_dial(key, where) for key, where in found.items() if key in endpoints.KEYS)
    )
    if not any(result.state == "ok" for result in results):
        return [
            Finding("note", "running stack", "its endpoints file is left over; nobody answers", "parley up")
        ]
    return list(results)


async def _dial(key: str, where: str) -> Finding:
    try:
        plain = where.split("://", 1)[-1].split("/", 1)[0]
        host, port = split_address(plain)
        async with asyncio.timeout(_DIAL_S):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
    except (OSError, TimeoutError):
        return Finding("note", key, f"{where} does not answer")
    return Finding("ok", key, f"{where} answers")


def _print(findings: list[Finding]) -> None:
    colours = {"ok": "green", "note": "yellow", "missing": "red"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        fix = f"[bold]{escape(finding.fix)}[/]" if finding.fix else ""
        table.add_row(f"[{colours[finding.state]}]{finding.state}[/]", finding.what, finding.detail, fix)
    Console(highlight=False).print(table)
