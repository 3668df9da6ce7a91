"""The command line: `llama-dflash COMMAND …`, or `python -m llama_dflash COMMAND …`.

A command is a module with `add(commands, name, help)`, which adds its parser and sets `run`; `COMMANDS` lists them. Only the
module of the command that was asked for is imported. Exit codes: 0 done, 1 a problem that a sentence on stderr states, 2 wrong
usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any, Callable, List, Optional, Tuple

from . import __version__, _library

EPILOG = """\
examples:
  llama-dflash demo
  llama-dflash run model.gguf "Why is the sky blue?"
  llama-dflash pull unsloth/Qwen3.5-27B-GGUF:Q4_K_M --draft-model z-lab/Qwen3.5-27B-DFlash
  llama-dflash run qwen3.5-27b
  llama-dflash serve -m qwen3.5-27b --parallel 8
  llama-dflash doctor

A model is named by its file, by its id on the Hugging Face Hub (org/name, org/name:FILE.gguf, org/name:Q4_K_M), or by the short
name that `pull` gave it. `llama-dflash COMMAND --help` says more. Exit codes: 0 done, 1 a problem that is stated, 2 wrong usage."""

COMMANDS: Tuple[Tuple[str, str, str], ...] = (  # name, module, help
    ("run", ".commands.run", "chat with a model in the terminal, or answer one prompt"),
    ("serve", ".serve.command", "serve a model to many users at once, with llama.cpp's own server and draft trees"),
    ("pull", ".commands.pull", "download a model and a drafter that fits it, and give the pair a short name"),
    ("pairs", ".commands.pairs", "list the drafters that are published for a model"),
    ("tune", ".commands.tune", "measure this machine with a model in about a minute, for later runs"),
    ("demo", ".commands.demo", "watch a real model write with and without draft trees"),
    ("doctor", ".commands.doctor", "check this installation, and say what to do about what is wrong"),
    ("info", ".commands.info", "say what targets and drafters are, whether they fit, and what memory they need"),
    ("convert", ".commands.convert", "convert a published drafter to GGUF"),
    ("bench", ".commands.bench", "measure plain decoding, chains and trees of a target and a drafter on prompts"),
    ("rpc-server", ".commands.rpc_server", "serve this host's memory and devices to a llama-dflash on another host"),
    ("completion", ".commands.completion", "print what makes a shell complete these commands"),
)


WITHOUT_LLAMA_CPP = ("pairs", "info")  # which load it themselves when they need it


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs a command line; None: the process's own. Returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    asked = next((word for word in words if not word.startswith("-")), None)
    parser = parser_of({asked} if asked else set())
    args, rest = parser.parse_known_args(words)
    if rest:
        _take_words(parser, args, rest)
    args.arguments = words[1:]  # of the command
    try:
        return args.run(args)
    except (ValueError, ImportError) as error:
        return _stated(args.command, str(error))
    except BrokenPipeError:
        sys.stderr.close()  # Python would complain there that stdout is gone
        return 1
    except OSError as error:
        return _stated(args.command, f"{error.filename or 'a file'}: {error.strerror or error}")
    except KeyboardInterrupt:
        _stated(args.command, "interrupted")
        return 130


def _take_words(parser: argparse.ArgumentParser, args: argparse.Namespace, rest: List[str]) -> None:
    """Words behind options, which argparse leaves over: of a command that takes any number of them (`takes_words`)."""
    where = getattr(args, "takes_words", None)
    if where is None or any(word.startswith("-") for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    getattr(args, where).extend(rest)


def parser_of(whole: "set[str] | None" = None) -> argparse.ArgumentParser:
    """The parser of everything, with the arguments of the commands in `whole`; None: of all commands."""
    parser = argparse.ArgumentParser(
        prog="llama-dflash",
        description="Run language models faster: lossless speculative decoding with draft trees for llama.cpp's models.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"llama-dflash {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name, module, help in COMMANDS:
        if whole is None or name in whole:
            if name not in WITHOUT_LLAMA_CPP:
                _library.load()
            importlib.import_module(module, __package__).add(commands, name, help)
        else:
            commands.add_parser(name, help=help)
    return parser


def add_command(
    commands: Any, name: str, help: str, run: Callable[[argparse.Namespace], int], epilog: str
) -> argparse.ArgumentParser:
    """A command's parser, without its arguments yet."""
    parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def positive(text: str) -> int:
    """The type of an argument that is a number from 1 on."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def layers(text: str) -> int:
    """The type of an argument that is a number of layers, -1 for all."""
    value = int(text)
    if value < -1:
        raise ValueError(text)
    return value


positive.__name__ = layers.__name__ = "number"  # which argparse says is invalid


def _stated(command: str, problem: str) -> int:
    print(f"llama-dflash {command}: {problem}", file=sys.stderr)
    return 1
