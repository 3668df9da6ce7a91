"""`python -m llama_dflash`: the same as the command `llama-dflash`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
