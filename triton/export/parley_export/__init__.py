"""From a checkpoint to Triton model folders. Runs in an environment of its own: torch lives here alone."""
