"""Python environments for models that stay programs (triton/families): one a family, made by uv.

`python -m gateway.triton.exported.family_environment WHAT…`, which people call as `scripts/families`: a family's name
makes its environment; the folder of an exported model makes that of its family and writes it into the model's
config.pbtxt (EXECUTION_ENV_PATH), which is what the model needs to load.

Every such environment sees Parley itself (a .pth file names the checkout), and those of OVER_EXPORT also what the
exporter's has, so that torch and transformers lie on the disk once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.triton.exported.environment import (
    CHECKOUT,
    LOCK,
    ExportUnavailable,
    cache_folder,
    ensure_environment,
    only_one,
    run_command,
    run_uv,
)

FAMILIES = CHECKOUT / "triton" / "families"
OVER_EXPORT = ("csm",)
PARAMETER = "EXECUTION_ENV_PATH"
_COMPLETE = ".complete"
_ENTRY = re.compile(rf'\{{\s*key:\s*"{PARAMETER}".*?\}}\s*\}}\s*,?\n?', re.DOTALL)


def family_names() -> list[str]:
    return sorted(path.parent.name for path in FAMILIES.glob("*/requirements.in"))


def family_folder(family: str) -> Path:
    """Where the family's environment is, or will be. Raises: ExportUnavailable."""
    requirements = FAMILIES / family / "requirements.in"
    if not requirements.exists():
        raise ExportUnavailable(
            f"{family} is no family with an environment; known: {', '.join(family_names())}"
        )
    told = requirements.read_bytes() + str(CHECKOUT).encode() + sys.version.encode()
    if family in OVER_EXPORT:
        told += LOCK.read_bytes()
    return cache_folder() / f"family-{family}-{hashlib.sha256(told).hexdigest()[:16]}"


def is_made(family: str) -> bool:
    return (family_folder(family) / _COMPLETE).exists()


async def ensure_family_environment(family: str, say: Callable[[str], None]) -> Path:
    """The environment's folder; makes it where it is missing. Raises: ExportUnavailable."""
    folder = family_folder(family)
    base = (await ensure_environment(say)).parents[1] if family in OVER_EXPORT else None
    if not is_made(family):
        async with only_one(folder.with_suffix(".lock"), say):
            if not is_made(family):
                say(f"making the environment of {family}: {folder}")
                await _make(family, folder, base)
    return folder


def use_environment(model: Path, folder: Path) -> None:
    """Writes `folder` as EXECUTION_ENV_PATH into the model's config.pbtxt, in place of what was said there."""
    config = model / "config.pbtxt"
    text = _ENTRY.sub("", config.read_text("utf-8"))
    entry = f'parameters [\n  {{ key: "{PARAMETER}", value: {{ string_value: "{folder}" }} }},'
    if "parameters [" not in text:
        raise ExportUnavailable(f"{config} has no parameters: was it made by `parley models export`?")
    fresh = config.with_suffix(".new")
    fresh.write_text(text.replace("parameters [", entry, 1), "utf-8")
    os.replace(fresh, config)


def family_of(model: Path) -> str:
    """Of an exported model's folder. Raises: ExportUnavailable."""
    try:
        found = json.loads((model / "1" / "front.json").read_text("utf-8"))["generator"]
    except (OSError, ValueError, KeyError):
        raise ExportUnavailable(f"{model} is no exported model with an environment of its own") from None
    return str(found)


async def _make(family: str, folder: Path, base: Path | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        await run_uv("venv", "-q", "--python", sys.executable, str(folder))
        await run_uv("pip", "install", "-r", str(FAMILIES / family / "requirements.in"), into=folder)
        cloned = [path for line in _sources(family) for path in await _clone(line, folder / "src")]
    except ExportUnavailable:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    packages = _site_packages(folder)
    paths = [*cloned, str(CHECKOUT), *([str(_site_packages(base))] if base else [])]
    (packages / "parley.pth").write_text("\n".join(paths) + "\n", "utf-8")
    _link_libpython(folder)
    (folder / _COMPLETE).touch()


def _sources(family: str) -> list[str]:
    """Of libraries that are no packages: a repository and the folders in it that are imported from."""
    path = FAMILIES / family / "sources.txt"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [line for line in lines if line.strip() and not line.startswith("#")]


async def _clone(line: str, into: Path) -> list[str]:
    """The folders to import from. Raises: ExportUnavailable."""
    url, *folders = line.split()
    place = into / url.rsplit("/", 1)[-1].removesuffix(".git")
    command = [
        "git",
        "clone",
        "-q",
        "--depth",
        "1",
        "--recurse-submodules",
        "--shallow-submodules",
        url,
        str(place),
    ]
    if await run_command(command, dict(os.environ)):
        raise ExportUnavailable(f"{url} could not be cloned: git's reason is above")
    return [str((place / folder).resolve()) for folder in folders]


def _site_packages(folder: Path) -> Path:
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _link_libpython(folder: Path) -> None:
    """Triton's Python stub looks for it in the environment's lib first."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    library = Path(sys.base_prefix) / "lib" / name
    if library.exists() and not (folder / "lib" / name).exists():
        (folder / "lib" / name).symlink_to(library)


async def _serve(wanted: Sequence[str]) -> None:
    for what in wanted:
        if what in family_names():
            print(await ensure_family_environment(what, _say))
            continue
        model = Path(what)
        folder = await ensure_family_environment(family_of(model), _say)
        use_environment(model, folder)
        _say(f"{model.name} runs in {folder}")


def _say(text: str) -> None:
    print(f"[families] {text}", file=sys.stderr, flush=True)


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(
            f"usage: scripts/families FAMILY | MODEL_FOLDER …   families: {', '.join(family_names())}",
            file=sys.stderr,
        )
        return 2
    try:
        asyncio.run(_serve(sys.argv[1:]))
    except ExportUnavailable as unavailable:
        print(f"scripts/families: {unavailable}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
