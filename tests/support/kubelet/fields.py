"""What the downward API knows of a pod."""

from __future__ import annotations

import re

from tests.support.kube_api import Object


def field_of(pod: Object, path: str) -> str:
    """As in "metadata.name", "status.podIP", "metadata.labels['app']". Raises: KeyError for what is not there."""
    keyed = re.fullmatch(r"(metadata)\.(labels|annotations)\['(.+)'\]", path)
    if keyed:
        return str(pod["metadata"].get(keyed[2], {}).get(keyed[3], ""))
    value: object = pod
    for key in path.split("."):
        if not isinstance(value, dict):
            raise KeyError(path)
        value = value[key]
    if isinstance(value, dict):
        return "\n".join(f'{key}="{text}"' for key, text in sorted(value.items()))
    return str(value)
