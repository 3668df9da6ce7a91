"""The result file: one JSON object, to which every measurement adds its section. results.schema.json describes it.

    python benchmarks/gpu/results.py results.json STEP SECONDS EXIT_STATUS
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

SCHEMA = 1


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"schema": SCHEMA}


def put(path: Path, section: str, name: str, value: dict[str, Any]) -> None:
    """Writes results[section][name], whole or not at all."""
    content = read(path)
    content.setdefault("date", datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"))
    content.setdefault("python", platform.python_version())
    content.setdefault(section, {})[name] = value
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    put(Path(sys.argv[1]), "steps", sys.argv[2], {"seconds": float(sys.argv[3]), "exit": int(sys.argv[4])})
