"""The exporter's own Python environment: torch, transformers and onnx, pinned, made by uv on first use.

It lies outside the checkout, named after the lock file it was made from, so that every checkout with the same
lock shares it and a new lock makes a new one.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

CHECKOUT = Path(__file__).parents[3]
LOCK = CHECKOUT / "requirements" / "torch.lock"
SOURCES = CHECKOUT / "triton" / "export"
NEEDED_BYTES = 14 << 30
"""Free disk space that making it takes: the packages, unpacked, and uv's copies of them."""
_COMPLETE = ".complete"
_END_S = 5.0
WAIT_S = 3_600.0
"""For another process that makes the same environment."""
_LOOK_S = 0.2


class ExportUnavailable(Exception):
    """Why nothing can be exported here. `str()` is a sentence that says what to do."""


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/parley`, else `~/.cache/parley`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "parley"


def environment_folder() -> Path:
    """Where the environment of this lock is, or will be. Raises: ExportUnavailable."""
    try:
        digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    except OSError:
        raise ExportUnavailable(
            f"there is no {LOCK}: exporting needs a checkout of Parley, with triton/export in it"
        ) from None
    return cache_folder() / f"export-{digest}"


def is_made() -> bool:
    folder = environment_folder()
    # Its python is a link to one that may be gone by now.
    return (folder / _COMPLETE).exists() and (folder / "bin" / "python").exists()


async def ensure_environment(say: Callable[[str], None]) -> Path:
    """The environment's Python; makes it where it is missing, which takes minutes and several GB once.

    say: told one line before it begins. Others who make the same one are waited for.
    Raises: ExportUnavailable.
    """
    folder = environment_folder()
    if not is_made():
        async with only_one(folder.with_suffix(".lock"), say):
            if not is_made():
                await _make(folder, say)
    return folder / "bin" / "python"


async def run_export(arguments: Sequence[str], say: Callable[[str], None] | None = None) -> int:
    """Runs `parley_export` with these arguments; its output goes where ours goes. Its exit code.

    Raises: ExportUnavailable.
    """
    return await run_python(["-m", "parley_export", *arguments], say)


async def run_python(arguments: Sequence[str], say: Callable[[str], None] | None = None) -> int:
    """Runs the environment's Python, the exporter importable. Its exit code. Raises: ExportUnavailable."""
    python = await ensure_environment(say or _say)
    return await run_command([str(python), *arguments], variables())


def variables() -> dict[str, str]:
    """Of a process that runs in it: the exporter is importable, and nothing is fetched."""
    return outside() | {
        "PYTHONPATH": f"{SOURCES}{os.pathsep}{CHECKOUT}",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",  # whatever is exported was pulled before
        "TOKENIZERS_PARALLELISM": "false",
    }


def outside() -> dict[str, str]:
    """Our variables for another Python: without those that are about ours."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


async def _make(folder: Path, say: Callable[[str], None]) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < NEEDED_BYTES:
        raise ExportUnavailable(
            f"{folder.parent} has {free >> 30} GB free, and the export environment takes {NEEDED_BYTES >> 30} GB "
            "to make; free some, or set XDG_CACHE_HOME to a larger disk"
        )
    say(f"making the export environment (torch, transformers, onnx; about 6 GB, once): {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        await run_uv("venv", "-q", "--python", sys.executable, str(folder))
        await run_uv(
            "pip", "install", "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK),
            into=folder,
        )  # fmt: skip
    except ExportUnavailable:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / _COMPLETE).touch()


async def run_uv(*arguments: str, into: Path | None = None) -> None:
    """into: the environment that it installs into. Raises: ExportUnavailable."""
    uv = find_uv()
    if uv is None:
        raise ExportUnavailable(
            "uv is missing, which makes environments for exporting: pip install 'parley[export]'"
        )
    # The checkout's own uv settings are for the gateway's environment.
    variables = outside() | ({"VIRTUAL_ENV": str(into)} if into is not None else {})
    code = await run_command([uv, "--no-config", *arguments], variables)
    if code:
        raise ExportUnavailable(
            f"the environment could not be made (uv {arguments[0]} ended with {code}; its reason is above): "
            "it needs a package index, or uv's cache from a machine that has one"
        )


def find_uv() -> str | None:
    """Beside this Python, or on the path."""
    return shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


@asynccontextmanager
async def only_one(path: Path, say: Callable[[str], None] = lambda _: None) -> AsyncIterator[None]:
    """Across processes; the lock is gone with its process. Raises: ExportUnavailable."""
    loop = asyncio.get_running_loop()
    deadline, said = loop.time() + WAIT_S, False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ExportUnavailable(
            f"cannot write to {path.parent} ({(error.strerror or str(error)).lower()}): "
            "make it writable, or set XDG_CACHE_HOME to another place"
        ) from None
    try:
        while not _locked(file):
            if loop.time() >= deadline:
                raise ExportUnavailable(
                    f"another process has been making {path.stem} for {WAIT_S / 60:.0f} min: end it, or wait"
                )
            if not said:
                say(f"another process is making {path.stem}: waiting for it")
            said = True
            await asyncio.sleep(_LOOK_S)  # a thread that waits in the kernel could not be cancelled
        yield
    finally:
        os.close(file)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def run_command(command: Sequence[str], environment: dict[str, str]) -> int:
    """Its exit code. Cancelled, the process and all that it started are ended."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command, env=environment, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
        )
    )
    try:
        process = await asyncio.shield(starting)
        return await process.wait()
    except asyncio.CancelledError:
        # Also while it is being started: asyncio would then end it alone, and not what it started.
        await _end(await starting)
        raise


async def _end(process: asyncio.subprocess.Process) -> None:
    _signal(process.pid, signal.SIGTERM)
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _END_S)
    _signal(process.pid, signal.SIGKILL)  # whatever of it did not heed the first
    await process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _say(text: str) -> None:
    print(f"[parley] {text}", file=sys.stderr, flush=True)


def main() -> int:
    """`python -m gateway.triton.exported.environment [python's arguments…]`: makes the environment, uses it."""
    try:
        if len(sys.argv) > 1:
            return asyncio.run(run_python(sys.argv[1:]))
        asyncio.run(ensure_environment(_say))
    except ExportUnavailable as unavailable:
        print(f"parley: {unavailable}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
