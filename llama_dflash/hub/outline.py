"""Files that look like the Hub's to whoever reads what they say about themselves, and hold none of their weights.

An outline has its file's size, the header, and small tables of numbers that say how a drafter's tokens are counted. Everything
else is a hole in the file: it takes no room and is not downloaded. It is enough to tell whether a drafter fits a target, as
`llama-dflash info` does, before gigabytes are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Sequence

from ..gguf_file import GgufFile
from .repository import Repository

FIRST_READ = 2 << 20  # bytes of a GGUF file: the header of most drafters; one with a large vocabulary has 10 to 20 MB
MOST_READ = 256 << 20
_TABLES = ("I64", "I32", "BOOL")  # tensors that say which token a row stands for
_MOST_TABLE = 8 << 20  # bytes


def outline(repo: Repository, names: Sequence[str], folder: Path) -> Path:
    """Outlines of files in `folder`: of a file that was downloaded before, the file itself.

    Returns:
        The folder.
    """
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        there = repo.cached(name)
        if there is not None:
            path.symlink_to(there.resolve())
        elif name.endswith(".gguf"):
            _outline_gguf(repo, name, path)
        elif name.endswith(".safetensors"):
            _outline_safetensors(repo, name, path)
        elif not name.endswith(".bin"):
            path.write_bytes(repo.read(name, 0, max(repo.files[name], 1)))
    return folder


def _outline_gguf(repo: Repository, name: str, path: Path) -> None:
    n_bytes, n_read, step = repo.files[name], 0, FIRST_READ
    with path.open("wb") as file:
        file.truncate(n_bytes)
        while True:
            part = repo.read(name, n_read, min(step, n_bytes - n_read))
            file.seek(n_read)
            file.write(part)
            file.flush()
            n_read, step = n_read + len(part), 2 * step
            if _has_whole_header(path, n_read) or not part or n_read >= min(n_bytes, MOST_READ):
                return


def _has_whole_header(path: Path, n_read: int) -> bool:
    try:
        return GgufFile(path).header_bytes <= n_read
    except ValueError:  # it ends in the hole, or the file is damaged, which its readers will say
        return False


def _outline_safetensors(repo: Repository, name: str, path: Path) -> None:
    n_bytes = repo.files[name]
    start = repo.read(name, 0, min(n_bytes, 1 << 20))
    length = 8 + int.from_bytes(start[:8], "little")
    header = start if length <= len(start) else start + repo.read(name, len(start), min(length, n_bytes) - len(start))
    with path.open("wb") as file:
        file.truncate(n_bytes)
        file.write(header)
        for first, last in _tables(header[8:length]):
            file.seek(length + first)
            file.write(repo.read(name, length + first, last - first))


def _tables(header: bytes):
    try:
        entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        places = [entry["data_offsets"] for entry in entries if entry["dtype"] in _TABLES]
        return [(first, last) for first, last in places if 0 < last - first <= _MOST_TABLE]
    except (ValueError, KeyError, TypeError, AttributeError):  # damaged: its readers say so
        return []
