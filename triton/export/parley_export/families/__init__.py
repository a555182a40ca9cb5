"""One module a family: `export(checkpoint, options) -> Exported`."""
