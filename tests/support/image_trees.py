"""The RUN steps of the Dockerfiles, run in an empty folder in place of an image, and what they made run there.

As root the programs run as user 1000 with an environment of their own, as in a container whose root is read-only:
the tree is root's. Else they run as whoever runs the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEPS = ROOT / "docker" / "steps"
DEBIANS_PYTHON = Path("/usr/bin/python3.11")
"""That of the image; where it is not, the one that runs the tests."""


def interpreter() -> Path:
    return DEBIANS_PYTHON if DEBIANS_PYTHON.exists() else Path(sys.base_prefix, "bin", "python3")


def step(name: str, *arguments: str, prefix: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs docker/steps/NAME as the Dockerfile does; unless TOOLS says otherwise, with the tests' own environment as tools."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "PREFIX": str(prefix),
        "SOURCE": str(ROOT),
        "TOOLS": sys.prefix,
        "PYTHON": str(interpreter()),
        **{
            key: value
            for key, value in os.environ.items()
            if key.startswith(("UV_", "PIP_", "SSL_", "HTTPS_", "XDG_"))
        },
        **variables,
    }
    return subprocess.run(
        [str(STEPS / name), *arguments], cwd="/", env=environment, capture_output=True, text=True, timeout=100
    )


@dataclass(frozen=True, slots=True)
class Tree:
    prefix: Path
    scratch: Path
    """What a container's /tmp is: the one place that may be written to."""

    def command(self, *words: str, **variables: str) -> list[str]:
        """argv that runs a program of the tree with nothing else of this process."""
        home = str(self.scratch)
        alone = ["env", "-i", f"PATH={self.prefix}/bin:/usr/bin:/bin", f"HOME={home}", f"TMPDIR={home}"]
        alone += ["PYTHONDONTWRITEBYTECODE=1", *(f"{key}={value}" for key, value in variables.items())]
        if is_other_user(self.prefix):
            alone = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", *alone]
        return [*alone, str(self.prefix / "bin" / words[0]), *words[1:]]


def is_other_user(prefix: Path) -> bool:
    """Whether programs of a tree can run as user 1000: root decides, and an interpreter that all may read."""
    readable = all(part.stat().st_mode & 0o005 for part in interpreter().resolve().parents)
    return os.geteuid() == 0 and readable and shutil.which("setpriv") is not None


def build(folder: Path, tools: Path, locks: str, *more: tuple[str, ...], models: str = "") -> Tree:
    """A tree with these locks' packages and Parley; `more` steps, each a name and its arguments, come after.

    tools: what tools.sh made."""
    prefix, scratch = folder / "opt" / "parley", folder / "tmp"
    scratch.mkdir(parents=True)
    scratch.chmod(0o777)
    folder.chmod(0o755)
    for name, *arguments in (("packages.sh",), ("parley.sh",), *more):
        done = step(name, *arguments, prefix=prefix, TOOLS=str(tools), LOCKS=locks, MODELS=models)
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    return Tree(prefix, scratch)
