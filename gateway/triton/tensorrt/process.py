"""The programs that build and run engines, each with a deadline."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress

BUILD_S = 3_600.0


class BuildFailed(Exception):
    """`str()` is a sentence with the last that the program said."""


async def run_program(command: Sequence[str], deadline_s: float) -> tuple[int, str]:
    """Exit code and everything it said. Cancelled or late, it is killed. Raises: BuildFailed, OSError."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # a wrapper's child would hold its output open
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), deadline_s)
    except TimeoutError:
        raise BuildFailed(f"{command[0]} did not end within {deadline_s:.0f} s") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return process.returncode or 0, out.decode(errors="replace")


def reason(said: str) -> str:
    """The last error that it told, else its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "[E]" in line]
    return (errors or lines or ["it said nothing"])[-1]
