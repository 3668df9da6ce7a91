"""The command line: `llama-dflash COMMAND …`, or `python -m llama_dflash COMMAND …`.

A command is a function that adds its parser and one that runs; `COMMANDS` lists them. Exit codes: 0 done, 1 a problem that
a sentence on stderr states, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, Callable, List, Optional

from . import __version__

EPILOG = """\
examples:
  llama-dflash convert ./Qwen3.5-27B-DFlash --target Qwen3.5-27B-Q4_K_M.gguf -o drafter.gguf
  llama-dflash info Qwen3.5-27B-Q4_K_M.gguf drafter.gguf --ctx 131072 --type-k q4_0 --type-v q4_0
  llama-dflash bench --target target.gguf --draft-model drafter.gguf --prompts prompts.jsonl:8 --out results.json

`llama-dflash COMMAND --help` says more. Exit codes: 0 done, 1 a problem that is stated, 2 wrong usage."""


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs a command line; None: the process's own. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="llama-dflash",
        description="Lossless speculative decoding with draft trees for llama-cpp-python: its tools.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"llama-dflash {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    args = parser.parse_args(arguments)
    args.arguments = sys.argv[2:] if arguments is None else arguments[1:]  # of the command
    try:
        return args.run(args)
    except (ValueError, ImportError) as error:
        return _stated(args.command, str(error))
    except OSError as error:
        return _stated(args.command, f"{error.filename or 'a file'}: {error.strerror or error}")
    except KeyboardInterrupt:
        return _stated(args.command, "interrupted")


def _stated(command: str, problem: str) -> int:
    print(f"llama-dflash {command}: {problem}", file=sys.stderr)
    return 1


def _add(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], help: str, epilog: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


# ---------------------------------------------------------------- convert

CONVERT_EPILOG = """\
examples:
  llama-dflash convert ./Qwen3.5-27B-DFlash --target Qwen3.5-27B-Q4_K_M.gguf -o drafter.gguf
  llama-dflash convert ./Qwen3.5-27B-DFlash --target Qwen3.5-27B-Q4_K_M.gguf -o drafter-q8_0.gguf --type q8_0

DFlash, DFlash2 and DSpark checkpoints convert, into what llama.cpp's own converter writes. The target's GGUF file, in any
quantisation, gives the tokenizer."""


def _add_convert(commands: Any) -> None:
    from .convert import AUTO, TYPES

    parser = _add(commands, "convert", _convert, "convert a published drafter to GGUF", CONVERT_EPILOG)
    parser.add_argument("checkpoint", metavar="DIR", help="folder with config.json and *.safetensors, or pytorch_model.bin")
    parser.add_argument(
        "--target", required=True, metavar="TARGET.gguf", help="the model that the drafter was made for"
    )
    parser.add_argument(
        "-o", "--out", required=True, metavar="OUT.gguf", help="where to write; an existing file is replaced"
    )
    parser.add_argument(
        "--type",
        default=AUTO,
        choices=(AUTO, *TYPES),
        help="of the matrices; auto (default): bf16 if the checkpoint is, else f16",
    )


def _convert(args: argparse.Namespace) -> int:
    from .convert import convert
    from .progress import Progress

    progress = Progress(f"converting {Path(args.checkpoint).name}")
    try:
        out = convert(args.checkpoint, args.target, args.out, args.type, progress)
    finally:
        progress.close()
    print(f"wrote {out} ({_size(out.stat().st_size)})")
    return 0


def _size(n_bytes: int) -> str:
    from .info import size_text

    return size_text(n_bytes)


# ---------------------------------------------------------------- info

INFO_EPILOG = """\
examples:
  llama-dflash info drafter.gguf
  llama-dflash info target.gguf drafter.gguf --ctx 131072 --type-k q4_0 --type-v q4_0
  llama-dflash info target.gguf drafter.gguf --json
  llama-dflash info target.gguf ngram
  llama-dflash info target.gguf mtp

No weights are loaded: all of it is in the files' metadata. With a target and a drafter that do not fit, the exit code is 1."""


def _add_info(commands: Any) -> None:
    from . import info

    parser = _add(
        commands,
        "info",
        _info,
        "say what targets and drafters are, whether they fit, and what memory they need",
        INFO_EPILOG,
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="GGUF file of a target or a drafter, or mtp or ngram")
    parser.add_argument(
        "--ctx",
        type=_positive,
        default=info.CONTEXT,
        metavar="N",
        help="context length, in tokens (default: %(default)s)",
    )
    for name, what in (("--type-k", "keys"), ("--type-v", "values")):
        parser.add_argument(name, type=str.lower, default=info.KV_TYPE, choices=info.KV_TYPES, metavar="TYPE",
                            help=f"of the target's cached {what}: {', '.join(info.KV_TYPES)} (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--draft-context",
        type=_positive,
        default=info.DRAFT_CONTEXT,
        metavar="N",
        help="positions the drafter remembers (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _info(args: argparse.Namespace) -> int:
    from . import info

    settings = info.Settings(args.ctx, args.type_k, args.type_v, args.draft_context)
    words = [word for word in args.files if word in ("mtp", "ngram") and not os.path.exists(word)]
    facts = info.report([info.Model(file) for file in args.files if file not in words], settings, words)
    print(json.dumps(facts, indent=2) if args.json else info.text(facts))
    return 0 if all(fit["fits"] for fit in facts["fits"]) else 1


# ---------------------------------------------------------------- bench


def _add_bench(commands: Any) -> None:
    from .bench import command

    help = "measure plain decoding, chains and trees of a target and a drafter on prompts"
    command.add_arguments(_add(commands, "bench", _bench, help, command.EPILOG))


def _bench(args: argparse.Namespace) -> int:
    from .bench import command

    return command.run(args, ["llama-dflash", "bench"])


COMMANDS = (_add_convert, _add_info, _add_bench)
