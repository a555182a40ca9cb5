"""`python -m load.soak.chaos.page DIR/chaos.md`: the results of a run into docs/reference/chaos.md."""

from __future__ import annotations

import sys
from pathlib import Path

from load.run.child import ROOT

PAGE = ROOT / "docs" / "reference" / "chaos.md"
BEGIN, END = "<!-- results: scripts/soak chaos -->", "<!-- end of results -->"


def put(results: Path, target: Path = PAGE) -> None:
    """What lies between the marks of `target` becomes the results, without their title. Raises ValueError."""
    before, begin, rest = target.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{target} has no marks to put the results between: {BEGIN} and {END}")
    found = "\n".join(line for line in results.read_text().splitlines() if not line.startswith("# "))
    target.write_text(f"{before}{BEGIN}\n\n{found.strip()}\n\n{END}{after}")


if __name__ == "__main__":
    put(Path(sys.argv[1]))
