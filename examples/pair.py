"""The pair of models that the examples use: SmolLM2-135M-Instruct and the drafter that ships with the project."""

import sys

from llama_dflash import demo

try:
    TARGET = str(demo.find_target())
    DRAFTER = str(demo.find_drafter())
except demo.Missing as missing:
    sys.exit(str(missing))
