"""What a result file says about where its numbers come from: machine, versions, the command. No local paths."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import llama_cpp

from .. import __version__

SOURCES = ("llama_dflash", "native", "patches", "vendor")  # of a checkout: what the numbers depend on


def machine() -> Dict[str, Any]:
    cpu = platform.processor() or "unknown"
    try:
        cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)[1]
    except (OSError, TypeError):
        pass
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.machine()}"
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(gib, 1), "system": system}


def versions(llama_server: Optional[Path], checkout: Optional[Path]) -> Dict[str, Any]:
    """checkout: this repository's folder, whose commit is named."""
    return {
        "llama_dflash": __version__,
        "git_commit": None if checkout is None else _commit(checkout),
        "llama_cpp_python": llama_cpp.__version__,
        "llama_server": None if llama_server is None else _server_version(llama_server),
        "python": platform.python_version(),
    }


def _commit(checkout: Path) -> Optional[str]:
    def git(*command: str) -> str:
        try:
            done = subprocess.run(["git", *command], cwd=checkout, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return ""
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", *SOURCES)
    return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "") or None


def _server_version(llama_server: Path) -> str:
    env = {**os.environ, "LD_LIBRARY_PATH": str(llama_server.resolve().parent)}
    done = subprocess.run([str(llama_server), "--version"], capture_output=True, text=True, env=env)
    said = (done.stderr + done.stdout).strip().splitlines()
    return said[0] if said else "unknown"


def command_line(program: Sequence[str], arguments: Sequence[str]) -> str:
    """The command, with paths as seen from here or its parent, others by their names alone."""

    def shown(word: str) -> str:
        if os.sep not in word:
            return word
        path, _, n = word.partition(":")
        relative = os.path.relpath(path)
        short = relative if not relative.startswith(os.path.join("..", "..")) else Path(path).name
        return short + (f":{n}" if n else "")

    words: List[str] = [option + eq + shown(value) for option, eq, value in (w.rpartition("=") for w in arguments)]
    return shlex.join([*program, *words])
