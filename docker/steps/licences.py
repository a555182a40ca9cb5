"""licences.py FOLDER: who made what is in this environment, and under which licence.

Writes FOLDER/README.md (a table), FOLDER/python/NAME-VERSION/* (the licence files that each package brings)
and FOLDER/copyleft.txt. Run by the environment's own interpreter; needs nothing but it.

A wheel may carry other people's libraries that its metadata does not mention: those that are known to be under
the GPL or LGPL are looked for by file name.
"""

from __future__ import annotations

import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

BUNDLED = {
    "libx264": "GPL-2.0-or-later",
    "libx265": "GPL-2.0-or-later",
    "libavcodec": "LGPL-3.0-or-later",
    "libgmp": "LGPL-3.0-or-later OR GPL-2.0-or-later",
    "libgnutls": "LGPL-2.1-or-later",
    "libmp3lame": "LGPL-2.0-or-later",
    "libnettle": "LGPL-3.0-or-later OR GPL-2.0-or-later",
    "libunistring": "LGPL-3.0-or-later OR GPL-2.0-or-later",
    "libasound": "LGPL-2.1-or-later",
    "libsndfile": "LGPL-2.1-or-later",
    "libespeakng": "GPL-3.0-or-later",
    "libmpg123": "LGPL-2.1-or-later",
}
"""Shared libraries by the beginning of their file name inside wheels, and what their projects say."""


def licence(package: metadata.Distribution) -> str:
    """What the metadata says: the SPDX expression, else the classifiers, else the short free text."""
    said = package.metadata
    if "License-Expression" in said:
        return said["License-Expression"]
    classified = [
        line.rpartition(" :: ")[2]
        for line in said.get_all("Classifier") or []
        if line.startswith("License ::") and line.count("::") > 1
    ]
    if classified:
        return ", ".join(classified)
    free = said["License"].strip().splitlines() if "License" in said else []
    return free[0][:80] if free else "not stated"


def licence_files(package: metadata.Distribution) -> list[Path]:
    """Those inside the package's metadata folder."""
    return [
        Path(str(package.locate_file(file)))
        for file in package.files or []
        if ".dist-info" in file.parts[0]
        and any(word in file.name.upper() for word in ("LICEN", "COPYING", "NOTICE", "AUTHORS"))
    ]


def bundled(package: metadata.Distribution) -> list[tuple[str, str]]:
    """(file name, licence) of each shared library in the package that BUNDLED knows."""
    found = []
    for file in package.files or []:
        start = re.split(r"[-_.]", file.name.replace("libespeak-ng", "libespeakng"))[0]
        if ".so" in file.name and start in BUNDLED:
            found.append((file.name, BUNDLED[start]))
    return sorted(found)


def is_copyleft(what: str) -> bool:
    return any(word in what.upper() for word in ("GPL", "GNU", "MPL", "MOZILLA"))


def main(folder: Path) -> int:
    packages = sorted(metadata.distributions(), key=lambda p: p.name.lower())
    rows, copyleft, texts = [], [], 0
    for package in packages:
        what = licence(package)
        files = licence_files(package)
        target = folder / "python" / f"{package.name}-{package.version}"
        for number, file in enumerate(files):
            target.mkdir(parents=True, exist_ok=True)
            name = file.name if not (target / file.name).exists() else f"{number}-{file.name}"
            shutil.copyfile(file, target / name)
            texts += 1
        inside = bundled(package)
        note = "; ".join(f"{name}: {said}" for name, said in inside)
        rows.append(f"| {package.name} | {package.version} | {what} | {note} | {len(files)} |")
        if is_copyleft(what):
            copyleft.append(f"{package.name} {package.version}: {what}")
        copyleft += [
            f"{package.name} {package.version}, {name}: {said}" for name, said in inside if is_copyleft(said)
        ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(
        "# What is inside, and whose it is\n\n"
        "Of the distribution's own packages the licences lie in /usr/share/doc/*/copyright.\n\n"
        "| package | version | licence, as its metadata says | known libraries inside | texts |\n"
        "|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )
    (folder / "copyleft.txt").write_text("\n".join(copyleft) + "\n")
    print(
        f"{len(rows)} packages, {texts} licence texts, {len(copyleft)} parts under copyleft", file=sys.stderr
    )
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: licences.py FOLDER")
    sys.exit(main(Path(sys.argv[1])))
