"""What the subcommands share: faults that end a command with one sentence, settings, addresses."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import sys
import threading
from collections.abc import Coroutine
from typing import Any

import yaml
from pydantic import ValidationError

from gateway.settings import Settings

OK, FAILED, USAGE, REFUSED = 0, 1, 2, 3
"""Exit codes: done; tried and failed; asked for something that cannot be; not let in."""
INTERRUPTED = 130
"""Ctrl-C."""


class Fault(Exception):
    """Ends the command: `str()` is one sentence for a person, without a traceback."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


class Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' line breaks."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment and file, `overrides` first. Raises Fault naming what is wrong."""
    config = os.environ.get("PARLEY_CONFIG")
    if config and not os.path.isfile(config):
        raise Fault(f"PARLEY_CONFIG names {config}, which is no file", USAGE)
    folder = os.environ.get("PARLEY_SECRETS")
    if folder and not os.path.isdir(folder):
        raise Fault(f"PARLEY_SECRETS names {folder}, which is no folder", USAGE)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        # Names and rules only: the value might be a key.
        wrong = [
            f"PARLEY_{'__'.join(str(part).upper() for part in e['loc'])}: {e['msg'].lower()}"
            for e in error.errors(include_input=False, include_url=False)
        ]
        raise Fault("the settings are wrong: " + "; ".join(wrong), USAGE) from None
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise Fault(f"the settings file {config}{where} is no YAML: {error.problem}", USAGE) from None
    except (OSError, ValueError) as error:
        raise Fault(f"the settings cannot be read: {type(error).__name__}", USAGE) from None


def api_key(given: str | None) -> str:
    """The key of the command line, else of PARLEY_API_KEY; "" for none."""
    return (given if given is not None else os.environ.get("PARLEY_API_KEY", "")).strip()


def address(text: str) -> str:
    """argparse type: host:port (a bare port means 127.0.0.1)."""
    found = re.fullmatch(r"(?:(?P<host>[^\s:/]+|\[[0-9A-Fa-f:.]+\]):)?(?P<port>\d{1,5})", text)
    if found is None or int(found["port"]) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no address; write host:port, as in 127.0.0.1:50050")
    return f"{found['host'] or '127.0.0.1'}:{found['port']}"


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run a client command; Ctrl-C ends it quietly with the shell's code for it."""
    try:
        return asyncio.run(main)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED


def complain(message: str) -> None:
    print(f"parley: {message}", file=sys.stderr)


def stop_event() -> asyncio.Event:
    """Set by SIGINT, SIGTERM and SIGHUP; a second one cancels the task that called this."""
    stopping, caller = asyncio.Event(), asyncio.current_task()
    assert caller is not None

    def on_signal() -> None:
        if stopping.is_set():
            caller.cancel()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return stopping


def end_with_sigterm() -> None:
    """SIGTERM and SIGHUP cancel the task that called this, as Ctrl-C does: what it started is ended with it.

    In another than the main thread, to which signals do not come, nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    caller = asyncio.current_task()
    assert caller is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, caller.cancel)


async def unless(stopping: asyncio.Event, work: asyncio.Task[Any]) -> bool:
    """Wait for the work; False when a signal came first. Raises what the work raises."""
    signalled = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({signalled, work}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
            return True
        return False
    finally:
        signalled.cancel()
        if not work.done():
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
