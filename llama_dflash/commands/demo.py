"""`llama-dflash demo`."""

from __future__ import annotations

import argparse
from typing import Any

from ..cli import add_command


def add(commands: Any, name: str, help: str) -> None:
    from .. import demo

    demo.add_arguments(add_command(commands, name, help, _run, demo.EXAMPLES))


def _run(args: argparse.Namespace) -> int:
    from .. import demo

    return demo.run(args)
