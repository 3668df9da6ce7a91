"""What the scripts have in common: the server, the tools that are called, and what is printed."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from typing import Any, Dict, List, Literal

City = Literal["Oslo", "Rome"]
QUESTION = "Count: 0123"
SCHEMA: Dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = ("look_up", "weather")
N_TOKENS = 24


def server() -> argparse.Namespace:
    """The address, without a path, and the key."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("key", nargs="?", default="none")
    return parser.parse_args()


class Trip:
    """The tools: two calls, then it is over."""

    def __init__(self) -> None:
        self.calls: List[str] = []

    @property
    def is_over(self) -> bool:
        return len(self.calls) >= 2

    def call(self, tool: str, city: str) -> str:
        assert tool in TOOLS and city in ("Oslo", "Rome"), (tool, city)
        self.calls.append(tool)
        return f"{city}: {len(self.calls)}"

    def call_json(self, tool: str, arguments: str) -> str:
        given = json.loads(arguments)
        assert set(given) == {"city"}, given
        return self.call(tool, given["city"])

    def check(self) -> None:
        assert len(self.calls) == 2, self.calls


def say(library: str, *did: str) -> None:
    """The last line of a script: the library, its version, what was done."""
    print()  # some libraries leave a line unfinished
    print(json.dumps({"library": library, "version": importlib.metadata.version(library), "did": did}))
