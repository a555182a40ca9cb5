"""Builds everything from Settings; the only place that knows all rooms."""
