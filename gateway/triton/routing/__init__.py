"""Which model, on which Triton, serves a request: policies, the choice among candidates, several servers."""
