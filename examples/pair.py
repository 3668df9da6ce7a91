"""The models that the examples use: the tiny pair that ships with the project, or SmolLM2-135M with PAIR=smollm2."""

import os
import sys

from llama_dflash import demo

try:
    pair = demo.PAIRS[os.environ.get("PAIR", "tiny-qwen35")]
    TARGET = str(demo.find_target(pair))
    DRAFTER = str(demo.find_shipped(pair.drafter))
except demo.Missing as missing:
    sys.exit(str(missing))
except KeyError as name:
    sys.exit(f"PAIR={name}, expected one of {', '.join(demo.PAIRS)}")
