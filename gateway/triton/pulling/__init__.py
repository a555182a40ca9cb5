"""Checkpoints and model folders brought to this machine: resumable, checked, whole or not at all."""
