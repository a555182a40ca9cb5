"""`parley up` as a child process: the whole embedded stack, as a person would run it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from gateway.cli.common import Fault

_START_S = 60.0
_STOP_S = 20.0
_ANY = "127.0.0.1:0"
_PR_SET_PDEATHSIG = 1


class Up:
    """`async with Up({"PARLEY_GATE__ENABLED": "false"}) as up:`. Nothing of the caller's own settings,
    endpoints or logs is read or touched. Raises Fault."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self._settings = dict(settings or {})
        self._folder = tempfile.TemporaryDirectory(prefix="parley-bench-")
        self._process: asyncio.subprocess.Process | None = None
        self.endpoints: dict[str, str] = {}
        self.ready_s = 0.0
        """From the start of the process to the endpoints file, which is written once all is ready."""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Up:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        folder = Path(self._folder.name)
        path = folder / "endpoints.json"
        began = time.monotonic()
        with (folder / "up.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway.cli", "up", "--plain", "--endpoints", str(path),
                "--grpc", _ANY, "--riva", _ANY, "--http", _ANY, "--admin", _ANY, "--speech-http", _ANY, "--llm", _ANY,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(folder),
                cwd=Path(__file__).parents[1],
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )  # fmt: skip
        while not path.exists():
            if self._process.returncode is not None or time.monotonic() - began > _START_S:
                raise Fault(f"the stack did not start: {self._last_words(folder)}")
            await asyncio.sleep(0.01)
        self.ready_s = time.monotonic() - began
        self.endpoints = json.loads(path.read_text())

    async def stop(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        self._folder.cleanup()

    def _environment(self, folder: Path) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PARLEY_")}
        ours = {
            "XDG_RUNTIME_DIR": str(folder),
            "PARLEY_TRITON__LOG_DIR": str(folder / "logs"),
            "PYTHONUNBUFFERED": "1",
        }
        return kept | ours | self._settings

    @staticmethod
    def _last_words(folder: Path) -> str:
        lines = [
            line for line in (folder / "up.log").read_text(errors="replace").splitlines() if line.strip()
        ]
        return lines[-1] if lines else "it said nothing"


def _end_with_parent() -> None:
    """In the child: however this program ends, the stack ends too (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
