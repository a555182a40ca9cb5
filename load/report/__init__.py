"""A run folder as a summary (JSON) and as one self-contained HTML page."""
