"""`llama-dflash doctor`: what is installed, whether it works, and what to do where it does not."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from ..cli import add_command

EPILOG = """\
examples:
  llama-dflash doctor
  llama-dflash doctor --json
  llama-dflash doctor --online

Exit code 1 if something does not work. A line with "!" is worth knowing, and no reason to worry."""

_SIGNS = {"ok": " ", "note": "!", "fault": "x"}


def add(commands: Any, name: str, help: str) -> None:
    parser = add_command(commands, name, help, _run, EPILOG)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--online", action="store_true", help="ask the Hub whether it answers")


def _run(args: argparse.Namespace) -> int:
    from .. import health

    findings = health.examine(online=args.online)
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{_SIGNS[finding.state]} {finding.what:18} {finding.found}")
            if finding.remedy:
                print(f"  {'':18} -> {finding.remedy}")
    faults = sum(finding.state == "fault" for finding in findings)
    if not args.json:
        print(f"\n{faults} of {len(findings)} checks failed." if faults else "\nAll is well.")
    return 1 if faults else 0
