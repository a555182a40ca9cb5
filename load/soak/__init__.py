"""Soaks: things repeated until a leak would show. Each module here is one, with ABOUT and
`async def run(soak: Soak) -> Outcome`; `scripts/soak NAME` finds it by its name."""
