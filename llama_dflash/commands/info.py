"""`llama-dflash info`."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from ..cli import add_command, positive

EPILOG = """\
examples:
  llama-dflash info drafter.gguf
  llama-dflash info target.gguf drafter.gguf --ctx 131072 --type-k q4_0 --type-v q4_0
  llama-dflash info target.gguf drafter.gguf --json
  llama-dflash info target.gguf ngram
  llama-dflash info target.gguf mtp

No weights are loaded: all of it is in the files' metadata. With a target and a drafter that do not fit, the exit code is 1."""

WORDS = ("mtp", "ngram")  # drafters without a file


def add(commands: Any, name: str, help: str) -> None:
    from .. import info

    parser = add_command(commands, name, help, _run, EPILOG)
    parser.add_argument(
        "files", metavar="MODEL", nargs="+", help="a target or a drafter: a GGUF file or a short name; or mtp or ngram"
    )
    parser.add_argument(
        "--ctx", type=positive, default=info.CONTEXT, metavar="N", help="context length, in tokens (default: %(default)s)"
    )
    for option, what in (("--type-k", "keys"), ("--type-v", "values")):
        parser.add_argument(option, type=str.lower, default=info.KV_TYPE, choices=info.KV_TYPES, metavar="TYPE",
                            help=f"of the target's cached {what}: {', '.join(info.KV_TYPES)} (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--draft-context",
        type=positive,
        default=info.DRAFT_CONTEXT,
        metavar="N",
        help="positions the drafter remembers (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(args: argparse.Namespace) -> int:
    from .. import info, short_names

    settings = info.Settings(args.ctx, args.type_k, args.type_v, args.draft_context)
    words = [word for word in args.files if word in WORDS and not os.path.exists(word)]
    files = [short_names.target_file(name) or name for name in args.files if name not in words]
    facts = info.report([info.Model(file) for file in files], settings, words)
    print(json.dumps(facts, indent=2) if args.json else info.text(facts))
    return 0 if all(fit["fits"] for fit in facts["fits"]) else 1
