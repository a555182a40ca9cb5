"""Prints docs/reference/settings.md from the settings themselves: python scripts/settings_doc.py > docs/reference/settings.md"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, SecretStr

from gateway.settings import Settings


def _default(value: object) -> str:
    if isinstance(value, SecretStr):
        return "*(empty)*"
    if isinstance(value, tuple):
        return (
            f"{len(value)} entries"
            if len(value) > 3
            else ("`" + ", ".join(map(str, value)) + "`" if value else "*(none)*")
        )
    text = str(value)
    return f"`{text}`" if text and text != "None" else "*(empty)*"


def _rows(prefix: str, part: BaseModel) -> Iterator[str]:
    for key, sub in type(part).model_fields.items():
        variable, value = f"{prefix}__{key.upper()}", getattr(part, key)
        if isinstance(value, BaseModel):
            yield from _rows(variable, value)
        else:
            meaning = (sub.description or "").replace("|", "\\|")
            yield f"| `{variable}` | {_default(value)} | {meaning} |"


def page() -> str:
    lines = [
        "# Settings",
        "",
        "Every setting, its environment variable and its default. The first source that has a value wins: the",
        "command line, the environment, the files in the folder named by `PARLEY_SECRETS` (each called as the variable whose",
        "value it holds, as secrets are mounted), the YAML file named by `PARLEY_CONFIG` (the same tree: `asr: {uri: …}`), the",
        "default. Lists are written as JSON in the environment. Unknown keys in a section are refused.",
        "",
        "This page is written by `scripts/settings_doc.py`; a test keeps it current.",
    ]
    flat = []
    for name, field in Settings.model_fields.items():
        part = field.default
        if not isinstance(part, BaseModel):
            flat.append((f"PARLEY_{name.upper()}", part, field.description or ""))
            continue
        about = (type(part).__doc__ or "").strip().splitlines()
        lines += ["", f"## {name}", ""]
        if about and about[0] and not about[0].startswith("Usage docs"):
            lines += [about[0], ""]
        lines += ["| variable | default | meaning |", "|---|---|---|"]
        lines += _rows(f"PARLEY_{name.upper()}", part)
    lines += ["", "## everything else", "", "| variable | default | meaning |", "|---|---|---|"]
    lines += [f"| `{variable}` | {_default(value)} | {meaning} |" for variable, value, meaning in flat]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
