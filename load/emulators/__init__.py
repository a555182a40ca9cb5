"""Stand-ins for the parts behind a gateway: Riva speech recognition, an OpenAI chat endpoint and a Triton
voice, true to their protocols, with latencies and faults to order. `python -m load.emulators --help`."""

from load.emulators.app import Addresses, Emulators, emulators
from load.emulators.distributions import BadProfile
from load.emulators.profile import Profile, assignments, read_profile

__all__ = ["Addresses", "BadProfile", "Emulators", "Profile", "assignments", "emulators", "read_profile"]
