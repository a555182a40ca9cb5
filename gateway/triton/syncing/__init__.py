"""A model repository brought to where Triton serves it from, checked against a manifest of SHA-256 sums."""
