"""What the server's process prints: llama.cpp's log, and a line of JSON for each request that it has answered.

A line of the log begins with a time and a letter for its level ("0.01.234.567 E srv  load_model: ..."); what has no such
beginning goes on with the line before. Requests come from native/server/request-log.cpp.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Dict, Optional

REQUEST = "@request "  # what a request's line begins with, behind the port that a router puts before its children's lines
LISTENING = re.compile(r"\blistening on (\S+)")

_PREFIX = re.compile(r"(?:\[\d+\] )?(?:\x1b\[\d+m)?\d+\.\d\d\.\d{3}\.\d{3}(?:\x1b\[0m)? (?:\x1b\[\d+m)?([DIWE]) (?:\x1b\[0m)?")
_REQUEST = re.compile(r"(?:\[\d+\] )?" + re.escape(REQUEST) + r"(\{.*\})$")

# asked so often, by pages and monitors, that nobody wants a line each
_QUIET = {"/", "/tree", "/health", "/v1/health", "/metrics", "/slots", "/props", "/models", "/v1/models", "/v1/streams/lookup"}
_QUIET_ENDS = (".js", ".css", ".html", ".json", ".png", ".ico", ".svg", ".webmanifest", ".woff", ".woff2")


@dataclass(frozen=True)
class Line:
    """A line of llama.cpp's log: its text as it came, and without what stands before the message."""

    level: str  # "D", "I", "W", "E", or "" where it goes on with the line before
    text: str
    message: str


def line_of(text: str) -> Line:
    found = _PREFIX.match(text)
    if not found:
        return Line("", text, text.strip())
    message = text[found.end() :]
    return Line(found[1], text, re.sub(r"^\w+ +[\w:~<>()]+: (?:id +-?\d+ \| task -?\d+ \| )?", "", message).strip())


def request_of(text: str) -> Optional[Dict[str, Any]]:
    """The request that a line tells of, None for a line of the log."""
    found = _REQUEST.match(text)
    return json.loads(found[1]) if found else None


def is_quiet(request: Dict[str, Any], prefix: str = "") -> bool:
    """Whether a request is of the kind that is asked every second, and went well."""
    path = request["path"][len(prefix) :] if request["path"].startswith(prefix) else request["path"]
    looks = request["method"] in ("GET", "HEAD", "OPTIONS") or path == "/v1/streams/lookup"
    return looks and request["status"] < 400 and (path in _QUIET or path.endswith(_QUIET_ENDS))


def describe(request: Dict[str, Any], clock: str) -> str:
    """One line for people: time of day, method, path, status, seconds, and what was generated.

    Args:
        request: method, path, status, seconds; "left": true if the client went away before the end; and, if something was
            generated, prompt, cached, tokens, tokens_per_second, rounds, tokens_per_round, nodes, accepted; "error": why it failed.
        clock: The time of day.
    """
    line = f"{clock} {request['method']:<4} {request['path']} {request['status']}  {_seconds(request['seconds'])}"
    parts = []
    if request.get("prompt") is not None:
        cached = f" + {request['cached']} cached" if request.get("cached") else ""
        parts.append(f"prompt {request['prompt']}{cached}")
    if request.get("tokens") is not None:
        rate = request.get("tokens_per_second")
        parts.append(_count(request["tokens"], "token") + (f" at {rate:.1f}/s" if rate else ""))
    if request.get("rounds"):
        length = request["tokens_per_round"]
        parts.append(f"{length:.2f} a round ({request['accepted']} of {request['nodes']} nodes accepted)")
    if request.get("error"):
        parts.append(request["error"])
    if request.get("left"):
        parts.append("the client left")
    return "  ".join([line, ", ".join(parts)]) if parts else line


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
