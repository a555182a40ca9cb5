"""`parley models sync` and `parley models manifest`: a repository for Triton, brought and checked."""

from __future__ import annotations

import argparse
import asyncio
import signal
import threading
from pathlib import Path

from gateway.cli.common import OK, Fault


def configure_sync(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="a folder, or s3://, gs:// or as:// as Triton writes them"
    )
    parser.add_argument("dest", metavar="DEST", type=Path, help="the folder that Triton serves from")
    parser.add_argument(
        "--model", action="append", default=[], metavar="MODEL", help="only this one (repeat)"
    )
    parser.add_argument("--prune", action="store_true", help="remove models that the source does not have")


def configure_manifest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repository", metavar="DIR", type=Path, help="the model repository")
    parser.add_argument("--check", action="store_true", help="write nothing: compare it with its SHA256SUMS")


async def run_sync(options: argparse.Namespace) -> int:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # at any point it may just end
    return await asyncio.to_thread(_sync, options)


async def run_manifest(options: argparse.Namespace) -> int:
    return await asyncio.to_thread(_manifest, options)


def _sync(options: argparse.Namespace) -> int:
    from gateway.triton.errors import TritonError
    from gateway.triton.syncing.source import open_source
    from gateway.triton.syncing.sync import sync

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        done = sync(
            open_source(options.source), options.source, options.dest,
            only=options.model, prune=options.prune, say=say,
        )  # fmt: skip
    except TritonError as error:
        raise Fault(str(error)) from None
    removed = f", {len(done.removed)} removed" if options.prune else ""
    print(
        f"{options.dest}: {len(done.brought)} models brought ({done.read_bytes / 1e6:.1f} MB read), "
        f"{len(done.same)} as they were{removed}"
    )
    return OK


def _manifest(options: argparse.Namespace) -> int:
    from gateway.triton.syncing.manifest import NAME, SyncError, parse_manifest, sums_of, write_manifest
    from gateway.triton.syncing.source import open_source

    repository: Path = options.repository
    try:
        source = open_source(str(repository))
        there = sums_of(repository)
        if options.check:
            told = parse_manifest(source.manifest(), str(repository / NAME))
            differing = sorted(
                f"{model}/{path}"
                for model in told.keys() | there.keys()
                for path in told.get(model, {}).keys() | there.get(model, {}).keys()
                if told.get(model, {}).get(path) != there.get(model, {}).get(path)
            )
            if differing:
                more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
                raise Fault(f"{repository} is not what its {NAME} says: {differing[0]}{more}")
        else:
            write_manifest(repository, there)
    except SyncError as error:
        raise Fault(str(error)) from None
    except OSError as error:
        raise Fault(f"{error.filename or repository}: {(error.strerror or str(error)).lower()}") from None
    files = sum(map(len, there.values()))
    print(
        f"{repository / NAME}: {files} files of {len(there)} models {'are right' if options.check else 'written'}"
    )
    return OK
