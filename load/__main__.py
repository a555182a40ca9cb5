"""`scripts/load SCENARIO --out DIR`."""

import sys

from load.run.main import main

if __name__ == "__main__":
    sys.exit(main())
