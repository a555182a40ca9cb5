"""`scripts/soak NAME`: repeats something until a leak would show."""

import os
import sys

# Nothing here forks while it speaks gRPC, and gRPC says so on every start. It looks at this when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

if __name__ == "__main__":
    from load.soak._command import main

    sys.exit(main())
