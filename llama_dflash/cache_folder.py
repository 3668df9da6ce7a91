"""Where files of the user are kept: what can be made again, and what was chosen."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """LLAMA_DFLASH_CACHE, or llama-dflash in the user's cache folder. It may not be there yet."""
    return _folder("LLAMA_DFLASH_CACHE", "XDG_CACHE_HOME", ".cache")


def config_folder() -> Path:
    """LLAMA_DFLASH_CONFIG, or llama-dflash in the user's folder of settings. It may not be there yet."""
    return _folder("LLAMA_DFLASH_CONFIG", "XDG_CONFIG_HOME", ".config")


def _folder(variable: str, of_all_programs: str, otherwise: str) -> Path:
    named = os.environ.get(variable)
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get(of_all_programs) or Path.home() / otherwise) / "llama-dflash"
