"""What stands for Parley's images: folders of the same layout, made of this checkout and its environment.

An image is known by the last part of its repository's name; the chart may put any registry in front.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from gateway.triton.host import find_wheel, libpython_folder, python_version

CHECKOUT = Path(__file__).parents[3]
PREFIX = "/opt/parley"
_PACKAGES = Path("/opt/packages")
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/sbin")


@dataclass(frozen=True)
class Image:
    """A root file system, and what an image says of the processes in it."""

    binds: dict[str, Path]
    """Read-only, by where they are seen."""
    environment: dict[str, str]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...] = ()
    user: int = 1000
    folder: str = "/tmp"


@dataclass
class Images:
    """Made once, in a folder that outlives the containers."""

    folder: Path
    models: dict[str, Path] = field(default_factory=dict)
    """Further models for the model repository of the Triton image, by name."""
    _made: dict[str, Image] = field(default_factory=dict)

    def find(self, reference: str) -> Image:
        """reference: as in "registry/parley:1.0" or "parley@sha256:…". Raises: KeyError."""
        name = reference.partition("@")[0].rpartition("/")[2].partition(":")[0]
        if name not in self._made:
            makers = {
                "parley": self._parley,
                "parley-triton": self._triton,
                "parley-triton-cpu": self._triton,
            }
            if name not in makers:
                raise KeyError(f"there is nothing that could stand for the image {reference}")
            self._made[name] = makers[name](self.folder / name)
        return self._made[name]

    def _parley(self, folder: Path) -> Image:
        _environment(folder)
        return Image(_binds(folder), _variables(), ("parley",), ("serve", "gateway"))

    def _triton(self, folder: Path) -> Image:
        _environment(folder)
        wheel = find_wheel()
        assert wheel is not None, "nvidia-pytriton is not installed"
        backend = folder / "backends" / "python"
        shutil.copytree(wheel.python_backend, backend)
        shutil.copy(wheel.stub, backend)
        shutil.copytree(CHECKOUT / "triton" / "backends" / "onnxruntime", folder / "backends" / "onnxruntime")
        shutil.copytree(
            CHECKOUT / "model_repository",
            folder / "model_repository",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        for name, model in self.models.items():
            shutil.copytree(model, folder / "model_repository" / name, dirs_exist_ok=True)
        (folder / "empty").mkdir()
        site = Path(sysconfig.get_path("purelib"))
        libraries = [_PACKAGES / wheel.libraries.relative_to(site), *filter(None, [libpython_folder()])]
        _script(
            folder / "bin" / "tritonserver",
            "#!/bin/sh\nunset PYTHONHOME PYTHONPATH\n"
            f"export LD_LIBRARY_PATH={':'.join(map(str, libraries))}\n"
            f'cd {PREFIX}/empty && exec {_PACKAGES / wheel.server.relative_to(site)} --backend-directory={PREFIX}/backends "$@"\n',
        )
        repository = f"--model-repository={PREFIX}/model_repository"
        return Image(
            _binds(folder), _variables(), ("tritonserver",), (repository, "--model-control-mode=explicit")
        )


def _environment(folder: Path) -> None:
    """A virtual environment with this one's packages, and this checkout's `gateway` before any other."""
    site = folder / "lib" / f"python{python_version()}" / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "pyvenv.cfg").write_text(
        f"home = {sys.base_prefix}/bin\ninclude-system-site-packages = false\n"
    )
    for name in ("python", "python3"):
        (folder / "bin" / name).symlink_to(Path(sys.base_prefix, "bin", f"python{python_version()}"))
    (site / "gateway").mkdir()  # to mount the checkout's on
    (site / "packages.pth").write_text(f"{_PACKAGES}\n")
    _script(
        folder / "bin" / "parley",
        f"#!{PREFIX}/bin/python3\nimport sys\nfrom gateway.cli import main\nsys.exit(main())\n",
    )


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _binds(folder: Path) -> dict[str, Path]:
    """Nothing at the checkout's own place, which may be one that a pod mounts over."""
    seen = {
        PREFIX: folder,
        f"{PREFIX}/lib/python{python_version()}/site-packages/gateway": CHECKOUT / "gateway",
        str(_PACKAGES): Path(sysconfig.get_path("purelib")).resolve(),
        "/etc/ssl": Path("/etc/ssl"),
        "/etc/alternatives": Path("/etc/alternatives"),
    }
    if sys.base_prefix != "/usr":
        seen[sys.base_prefix] = Path(sys.base_prefix)
    return {target: source for target, source in seen.items() if source.is_dir()}


def _variables() -> dict[str, str]:
    return {
        "PATH": f"{PREFIX}/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
