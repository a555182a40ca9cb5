"""Recognisers around exported graphs: one module a kind, `load(folder) -> Recogniser`."""
