"""`llama-dflash bench`."""

from __future__ import annotations

import argparse
from typing import Any

from ..cli import add_command


def add(commands: Any, name: str, help: str) -> None:
    from ..bench import command

    command.add_arguments(add_command(commands, name, help, _run, command.EPILOG))


def _run(args: argparse.Namespace) -> int:
    from ..bench import command

    return command.run(args, ["llama-dflash", "bench"])
