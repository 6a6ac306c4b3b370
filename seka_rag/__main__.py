"""`python -m seka_rag` is the command `seka-rag`."""

import sys

from seka_rag.cli import main

if __name__ == "__main__":
    sys.exit(main())
