"""All Tritons of a process, with their models, as one thing to hold models of."""
