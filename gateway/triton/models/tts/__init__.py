"""Voices from exported graphs: text to ids, ids to frames, frames to samples."""
