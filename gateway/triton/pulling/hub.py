"""What a repository of a Hugging Face hub holds, and what of it is needed.

The API as huggingface_hub 2.4 uses it: `/api/models/ID/revision/REV?blobs=true` with `sha`, `siblings`
(`rfilename`, `size`, `blobId`, `lfs.sha256`) and `cardData`; files at `/ID/resolve/SHA/PATH`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.triton.pulling.errors import PullError
from gateway.triton.pulling.licences import Licence, is_licence_text, licence_of_card, licence_of_text
from gateway.triton.pulling.plan import Plan, Remote, safe_path
from gateway.triton.pulling.sources import HubSource
from gateway.triton.pulling.web import Web

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NEVER = (
    "*.gitattributes",
    "*.png",
    "*.jpg",
    "*.jpeg",
    "*.gif",
    "*.pdf",
    "*.ipynb",
    "*.mlmodel*",
    "*.tflite",
)
_OTHER_FORMATS = ("*.h5", "*.msgpack", "*.ot", "*.nemo", "*.mlpackage*", "coreml/*", "openvino/*")
"""The same weights once more, where there are `*.safetensors`."""
_MAX_FILES = 5_000


def is_commit(revision: str) -> bool:
    return bool(_COMMIT.fullmatch(revision))


async def plan_of_hub(web: Web, source: HubSource, named: Licence | None) -> Plan:
    """One request, and one more where only the licence's text says which it is.

    named: the catalogue's word, where it has one. Raises: PullError.
    """
    told = await web.json(
        f"{web.endpoint}/api/models/{source.id}/revision/{quote(source.revision, safe='')}?blobs=true"
    )
    try:
        sha, siblings = str(told["sha"]), list(told["siblings"])
        if not is_commit(sha) or len(siblings) > _MAX_FILES:
            raise ValueError
        files = [_remote(web.endpoint, source, sha, one) for one in siblings]
    except (KeyError, TypeError, ValueError):
        raise PullError(f"{web.endpoint} answered about {source.id} in words that are not a hub's") from None
    chosen = choose([one.path for one in files], source.files)
    if source.files:
        for pattern in source.files:
            if not any(fnmatchcase(path, pattern) for path in chosen):
                raise PullError(f"{source} has no file {pattern}")
    if not chosen:
        raise PullError(f"{source} holds nothing that could be used")
    licence = await _licence(web, source, told, files, named)
    owner, name = source.id.split("/")
    base = Path("hub") / f"{owner}--{name}"
    subset = (
        "-" + hashlib.sha256("\n".join(sorted(source.files)).encode()).hexdigest()[:8] if source.files else ""
    )
    wanted = set(chosen)
    return Plan(
        label=source.id,
        folder=base / (sha + subset),
        files=tuple(one for one in files if one.path in wanted),
        licence=licence,
        revision=sha,
        note=note_of(source),
    )


def note_of(source: HubSource) -> Path:
    """Where the commit that a revision meant, and the files that were chosen, are remembered."""
    owner, name = source.id.split("/")
    asked = "\n".join([source.revision, *sorted(source.files)])
    return Path("hub") / f"{owner}--{name}" / "refs" / hashlib.sha256(asked.encode()).hexdigest()[:16]


def choose(paths: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """What is needed of a repository: what fits a pattern, else all but pictures and second copies of weights;
    licences and the card in any case."""
    beside = [path for path in paths if is_licence_text(path) or path in ("README.md", "MODEL_CARD")]
    if patterns:
        return [path for path in paths if path in beside or any(fnmatchcase(path, one) for one in patterns)]
    left_out = list(_NEVER)
    if any(path.endswith(".safetensors") for path in paths):
        left_out += [*_OTHER_FORMATS, "onnx/*", "*.bin", "*.pt", "*.pth", "*.ckpt"]
    elif any(path.endswith((".bin", ".pt", ".pth")) for path in paths):
        left_out += _OTHER_FORMATS
    return [path for path in paths if path in beside or not any(fnmatchcase(path, one) for one in left_out)]


def _remote(endpoint: str, source: HubSource, sha: str, told: Mapping[str, Any]) -> Remote:
    """Raises: KeyError, TypeError, ValueError, PullError."""
    path = safe_path(str(told["rfilename"]))
    size = told.get("size")
    lfs = told.get("lfs") or {}
    announced = str(lfs.get("sha256") or lfs.get("oid", "")).removeprefix("sha256:")
    given = next((its for name, its in source.sha256.items() if name == path), "")
    if given and announced and given != announced:
        raise PullError(f"{source}: {path} is not the file that the catalogue means: its checksum is another")
    return Remote(
        path=path,
        url=f"{endpoint}/{source.id}/resolve/{sha}/{quote(path)}",
        size=int(size) if size is not None else None,
        sha256=given or announced,
        git_sha1=str(told.get("blobId") or "") if not lfs else "",
    )


async def _licence(
    web: Web, source: HubSource, told: Mapping[str, Any], files: Sequence[Remote], named: Licence | None
) -> Licence:
    """The hub's word on a repository of today counts; the catalogue's fills in, and its bar stays."""
    card = told.get("cardData")
    page = f"{web.endpoint}/{source.id}"
    found = licence_of_card(card if isinstance(card, Mapping) else {}, told.get("tags") or (), page)
    text = next((one for one in files if is_licence_text(one.path) and "/" not in one.path), None)
    if not found.id and text is not None:
        found = licence_of_text(await web.text(text.url), f"{page}/blob/main/{text.path}") or found
    if named is None:
        return found
    if not found.id or named.is_called(found.id) or found.id in ("LicenseRef-other", "MIT", "Apache-2.0"):
        return replace(named, where=named.where if not found.where else f"{named.where}; {found.where}")
    return replace(found, barred=found.barred or named.noncommercial)
