"""The helpers beside the tests, and those of all tests."""

import sys
from pathlib import Path

# at the end: other folders' tests import their own conftest by its name
sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1])]
