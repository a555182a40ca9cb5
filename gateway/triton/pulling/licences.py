"""Which licence a checkpoint has, as far as its source says so, and whether it bars commercial use.

Names as the Hugging Face hub writes them in a model card's `license` and `license_name`, and SPDX ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NONCOMMERCIAL = re.compile(
    r"(^|[-_ ])nc([-_ ]|$)|non-?commercial|\bcpml\b|coqui-public-model|moonshine-community|research-only"
    r"|blizzard|\bmrl\b|research-license",
    re.IGNORECASE,
)
_SPELLED = {
    "mit": "MIT", "apache-2.0": "Apache-2.0", "openmdw": "OpenMDW-1.0", "openmdw-1.1": "OpenMDW-1.1",
    "bsd-3-clause": "BSD-3-Clause", "bsd-2-clause": "BSD-2-Clause", "unlicense": "Unlicense",
    "coqui-public-model-license": "LicenseRef-CPML", "cpml": "LicenseRef-CPML",
    "moonshine-community-license": "LicenseRef-Moonshine-Community",
    "moonshine-community": "LicenseRef-Moonshine-Community",
    "nvidia-open-model-license": "LicenseRef-NVIDIA-Open-Model",
}  # fmt: skip
_TEXTS = (
    (r"non-?commercial.{0,40}share-?alike.{0,20}4\.0", "CC-BY-NC-SA-4.0"),
    (r"attribution-noncommercial 4\.0|attribution-non-commercial 4\.0", "CC-BY-NC-4.0"),
    (r"coqui public model license", "LicenseRef-CPML"),
    (r"moonshine.{0,10}community license", "LicenseRef-Moonshine-Community"),
    (r"nvidia open model license", "LicenseRef-NVIDIA-Open-Model"),
    (r"apache license\s+version 2\.0", "Apache-2.0"),
    (r"attribution-sharealike 4\.0 international", "CC-BY-SA-4.0"),
    (r"attribution 4\.0 international", "CC-BY-4.0"),
    (r"gnu affero general public license", "AGPL-3.0-only"),
    (r"gnu general public license\s+version 3", "GPL-3.0-only"),
    (r"permission is hereby granted, free of charge, to any person obtaining a copy", "MIT"),
    (r"redistribution and use in source and binary forms", "BSD-3-Clause"),
)
"""How licence texts are known, in their first lines; the more particular ones first."""
_TEXT_NAMES = re.compile(r"(.*/)?(licen[cs]e|copying)([-._].*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Licence:
    """What a source says of its licence."""

    id: str = ""
    """SPDX, or LicenseRef-…; "" where the source names none."""
    where: str = ""
    """What said so, or where the text is."""
    barred: bool = False
    """Said to be non-commercial by whoever named it, whatever the id looks like."""

    @property
    def noncommercial(self) -> bool:
        return self.barred or bool(_NONCOMMERCIAL.search(self.id))

    def __str__(self) -> str:
        said = self.id or "not named by its source"
        said += " (non-commercial use only)" if self.noncommercial else ""
        return said + (f", {self.where}" if self.where else "")

    def is_called(self, name: str) -> bool:
        """Whether `name` is this licence's id, in whatever case and with or without LicenseRef-."""
        return bool(self.id) and _bare(name) == _bare(self.id)


def spelled(name: str) -> str:
    """As SPDX writes it, where that is known; a licence that is no SPDX one keeps its name."""
    name = name.strip()
    low = name.lower().replace(" ", "-")
    if low in _SPELLED:
        return _SPELLED[low]
    return low.upper() if re.fullmatch(r"(cc|gpl|lgpl|agpl|mpl)[-0-9a-z.]*", low) else name


def licence_of_card(card: Mapping[str, Any], tags: Sequence[str], page: str) -> Licence:
    """Of the hub's `cardData`, else of its `license:` tag. page: where a person can read it."""
    named = card.get("license")
    if isinstance(named, list):
        named = " AND ".join(spelled(str(one)) for one in named)
    if not named:
        named = next((tag.partition(":")[2] for tag in tags if tag.startswith("license:")), "")
    if str(named).lower() == "other":
        named = card.get("license_name") or "LicenseRef-other"
        page = str(card.get("license_link") or page)
    return Licence(spelled(str(named)) if named else "", page if named else "")


def is_licence_text(path: str) -> bool:
    return bool(_TEXT_NAMES.fullmatch(path))


def licence_of_text(text: str, where: str) -> Licence | None:
    """Of the words that licence texts begin with; None for a text that is not known."""
    head = " ".join(text[:6_000].lower().split())
    found = next((name for pattern, name in _TEXTS if re.search(pattern, head)), None)
    return Licence(found, where) if found else None


def _bare(name: str) -> str:
    return name.strip().lower().removeprefix("licenseref-")
