"""``python -m adaptive_constraints``: the command line."""

import sys

from adaptive_constraints.cli import main

if __name__ == "__main__":
    sys.exit(main())
