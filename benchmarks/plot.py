"""Acceptance length and tokens per second against budget: one picture per target of a result file.

    python benchmarks/plot.py results.json --out docs/images
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import List, Optional

from llama_dflash.bench.plots import plot


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Acceptance length and tokens per second against budget, as PNG.")
    parser.add_argument("results", nargs="+", type=Path, help="what bench.py wrote")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="FOLDER", help="default: here")
    args = parser.parse_args(argv)
    for file in args.results:
        print(*plot(json.loads(file.read_text(encoding="utf-8")), args.out), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
