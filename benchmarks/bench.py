"""`llama-dflash bench`, with this checkout's commit in the results.

    python benchmarks/bench.py --target M.gguf --draft-model D.gguf --prompts P.jsonl:8 --out results.json

README.md says what the numbers mean; plot.py and report.py show them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import List, Optional

from llama_dflash.bench import command


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        description="Plain decoding against chains and draft trees, greedy, prompt by prompt.",
        epilog=command.EPILOG.replace("llama-dflash bench", "python benchmarks/bench.py"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    args = parser.parse_args(argv)
    args.arguments = sys.argv[1:] if argv is None else argv
    try:
        return command.run(args, ["python", "benchmarks/bench.py"], checkout=Path(__file__).resolve().parents[1])
    except (ValueError, ImportError, OSError) as error:
        raise SystemExit(f"bench.py: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
