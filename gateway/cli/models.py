"""`parley models`: what a Triton has, loads and unloads."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from gateway.cli import endpoints
from gateway.cli.common import FAILED, OK, Fault, Help, address, run
from gateway.triton.channel import open_channel
from gateway.triton.errors import TritonError
from gateway.triton.repository import ModelState, Repository

_EPILOG = """\
examples:
  parley models list
  parley models load tts_espeak
  parley models status asr_pocketsphinx      exit code 0 when ready, 1 when not
  parley models list --triton 10.0.0.7:8001 --json

Without --triton it is the running stack's server (`parley up`), else 127.0.0.1:8001.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    names = {"list": None, "load": "+", "unload": "+", "status": "*"}
    summaries = {
        "list": "every model of the repository, loaded or not",
        "load": "load models and wait until they are ready",
        "unload": "unload models and wait until they are gone",
        "status": "what models say about themselves; all that are loaded when none is named",
    }
    for verb, count in names.items():
        one = verbs.add_parser(verb, help=summaries[verb], description=summaries[verb], formatter_class=Help)
        if count is not None:
            one.add_argument("names", nargs=count, metavar="MODEL")
        one.add_argument("--triton", type=address, metavar="ADDR", help="Triton's gRPC address")
        one.add_argument("--json", action="store_true", help="JSON on stdout")
    parser.set_defaults(run=lambda options: run(_models(options)))


async def _models(options: argparse.Namespace) -> int:
    where = options.triton or endpoints.find("triton_grpc", default="127.0.0.1:8001")
    channel = open_channel(where)
    try:
        repository = Repository(channel)
        if not await repository.is_live(deadline_s=3.0):
            raise Fault(
                f"no Triton answers at {where}; start one with `parley up`, or name another with --triton"
            )
        if options.verb == "list":
            return _list(await repository.index(), as_json=options.json)
        if options.verb == "status":
            return await _status(repository, options.names, as_json=options.json)
        return await _change(repository, options)
    except TritonError as error:
        raise Fault(str(error)) from None
    finally:
        await channel.close()


def _list(models: list[ModelState], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps([asdict(model) for model in models], indent=2))
        return OK
    table = _table("model", "version", "state", "reason")
    for model in models:
        gone = not model.state or model.reason == "unloaded"
        state, reason = ("not loaded", "") if gone else (model.state, model.reason)
        table.add_row(model.name, model.version, state, reason)
    Console(soft_wrap=True, highlight=False).print(table)
    return OK


async def _change(repository: Repository, options: argparse.Namespace) -> int:
    """Load or unload each; one that fails does not keep the others back."""
    results: list[dict[str, Any]] = []
    for name in options.names:
        try:
            if options.verb == "load":
                await repository.load(name)
            else:
                known = {model.name for model in await repository.index()}
                if name not in known:
                    raise TritonError(f"unload {name}: no such model in the repository")
                await repository.unload(name)
            results.append({"name": name, "ok": True, "error": ""})
        except TritonError as error:
            results.append({"name": name, "ok": False, "error": str(error)})
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        for result in results:
            print(f"{result['name']} {options.verb}ed" if result["ok"] else f"failed: {result['error']}")
    return OK if all(result["ok"] for result in results) else FAILED


async def _status(repository: Repository, names: list[str], *, as_json: bool) -> int:
    index = await repository.index()
    states = {model.name: model for model in index}
    wanted = names or [model.name for model in index if model.state == "READY"]
    rows: list[dict[str, Any]] = []
    for name in wanted:
        state = states.get(name)
        row: dict[str, Any] = {"name": name, "ready": False, "state": "unknown", "reason": "no such model"}
        if state is not None:
            row |= {"state": state.state or "not loaded", "reason": state.reason}
            if await repository.is_ready(name):
                row |= {"ready": True} | asdict(await repository.describe(name))
        rows.append(row)
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        _print_status(rows)
    return OK if all(row["ready"] for row in rows) else FAILED


def _print_status(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        reason = f" ({row['reason']})" if row["reason"] and not row["ready"] else ""
        print(f"{row['name']}  {row['state']}{reason}")
        if not row["ready"]:
            continue
        facts = {
            "family": row["family"],
            "languages": ", ".join(row["languages"]),
            "voices": ", ".join(row["voices"]),
            "rate": f"{row['sample_rate']} Hz" if row["sample_rate"] else "",
            "memory": f"{row['memory_mb']} MB" if row["memory_mb"] else "",
            "needs a GPU": "yes" if row["needs_gpu"] else "",
            "licence": row["license"],
        }
        for name, fact in facts.items():
            if fact:
                print(f"  {name:<12}{fact}")


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title)
    return table
