"""Parts, workers and lines that are cut at random moments under live sessions."""

from load.soak.chaos.course import ABOUT, run

__all__ = ["ABOUT", "run"]
