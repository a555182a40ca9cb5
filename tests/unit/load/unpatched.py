"""Locust's side of the callers, imported without the monkey patches that locust makes by default.

They would change sockets and threads of the whole test process. Children of it must get them again.
"""

from __future__ import annotations

import os

os.environ["LOCUST_SKIP_MONKEY_PATCH"] = "1"
try:
    from load import shapes, users
finally:
    del os.environ["LOCUST_SKIP_MONKEY_PATCH"]

__all__ = ["shapes", "users"]
