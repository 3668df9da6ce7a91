"""Where files are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """LLAMA_DFLASH_CACHE, or llama-dflash in the user's cache folder. It may not be there yet."""
    named = os.environ.get("LLAMA_DFLASH_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama-dflash"
