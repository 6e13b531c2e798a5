"""`python -m hltm` is the command `hltm`."""

import sys

from dualnets.cli import main

if __name__ == "__main__":
    sys.exit(main())
