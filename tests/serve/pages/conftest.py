"""The browser is in a file of this folder."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent)]
