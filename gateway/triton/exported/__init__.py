"""Models that Parley exported: their graphs' descriptions, their configs, and the proof that they are equal.

Imported by the gateway, by the models inside Triton and by the exporter alike: numpy and the standard
library only.
"""
