"""The house itself: what may be imported, what the locks hold, what no file may say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

_OPTIONAL = ["pytriton", "pocketsphinx", "espeakng_loader", "torch", "livekit", "sounddevice", "locust"]


def test_the_gateway_alone_needs_no_triton_no_torch_and_no_engine() -> None:
    code = f"""
import sys
for name in {_OPTIONAL!r}:
    sys.modules[name] = None  # importing it raises ImportError
import importlib, pkgutil, gateway
for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
    inside_triton = module.name.startswith("gateway.triton.models")
    if not inside_triton and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_locks_pin_hashes_and_name_no_registry_and_one_alone_has_torch() -> None:
    for lock in (ROOT / "requirements").glob("*.lock"):
        text = lock.read_text()
        assert "://" not in text, f"{lock.name} names an address"
        # torch.lock is of the exporter's own environment, which the gateway shares nothing with.
        assert bool(re.search(r"^(torch|transformers)==", text, re.MULTILINE)) is (lock.name == "torch.lock")
        pins = re.findall(r"^[a-z0-9].*==", text, re.MULTILINE)
        assert pins
        for entry in re.split(r"\n(?=[a-z0-9])", text):
            if "==" in entry.splitlines()[0]:
                assert "--hash=sha256:" in entry, f"{lock.name}: {entry.splitlines()[0]}"


def test_links_between_pages_lead_somewhere() -> None:
    pages = [page for folder in ("docs", "helm", "k8s") for page in (ROOT / folder).rglob("*.md")]
    pages += ROOT.glob("*.md")
    assert len(pages) > 5
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} → {target}"


def test_the_architecture_knows_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.split("## Rooms")[1].split("\n## ")[0]
    cells = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    named = [path for where, _ in cells for path in re.findall(r"`([^`]+)`", where)]
    assert len(named) > 30
    for path in named:
        assert any((ROOT / base / path).exists() for base in ("", "gateway", "gateway/triton")), path
    rooms = {path.parent.name for path in (ROOT / "gateway").glob("*/__init__.py")} - {"protocol", "web"}
    assert rooms <= {path.split("/")[1] for path in named if path.startswith("gateway/")}


def test_files_stay_small_enough_to_read() -> None:
    too_long = {
        str(p.relative_to(ROOT)): n
        for p in (ROOT / "gateway").rglob("*.py")
        if "protocol" not in p.parts and (n := len(p.read_text().splitlines())) > 420
    }
    assert not too_long
