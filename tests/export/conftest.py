"""Tests of the exporter: they need torch, so they run in its environment (scripts/test does it)."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*.py"]
