"""Load tests of a Parley gateway with locust.

    locust -f load/locustfile.py --host 127.0.0.1:50061                             web UI
    locust -f load/locustfile.py --host 127.0.0.1:50061 -u 10 -r 2 -t 30s --headless
    locust -f load/locustfile.py --host 127.0.0.1:50061 --scenario ramp -u 200 --headless
    locust -f load/locustfile.py --master …   and   locust -f load/locustfile.py --worker

Without a scenario, `-u`, `-r` and `-t` mean what they always do. With `--class-picker` the web UI offers
the scenarios' shapes; how callers behave is among the custom parameters.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # locust knows this file's own folder only

from load.shapes import SHAPES
from load.users import Caller

__all__ = ["Caller"]


def _scenario() -> str:
    """That of the command line, which locust has not parsed yet: it takes one shape class, or none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--scenario", default=os.environ.get("PARLEY_LOAD_SCENARIO", ""))
    return str(parser.parse_known_args()[0].scenario)


if "--class-picker" in sys.argv:
    globals().update({shape.__name__: shape for shape in SHAPES.values()})
elif _scenario() in SHAPES:
    Shape = SHAPES[_scenario()]
