"""Parley's measurements: `scripts/bench`. Results are kept in BENCHMARKS.md."""
