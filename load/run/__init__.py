"""Sets up a load test, runs it, and leaves a run folder."""
