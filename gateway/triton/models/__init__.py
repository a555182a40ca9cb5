"""What Parley's own Python models share.

Imported inside a model's process, beside Triton's Python backend: the standard library and numpy
only, nothing of the gateway. A model finds it where it finds its engine, in the Python environment
of the backend, so a model folder still works after it was copied elsewhere (object stores give each
model a folder of its own, so a neighbouring folder would not be there).
"""
