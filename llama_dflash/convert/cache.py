"""Converts a published drafter once, for `Llama(draft_model=<checkpoint>)`, and finds it again afterwards.

A converted drafter lies in LLAMA_DFLASH_CACHE or ~/.cache/llama-dflash, folder "drafters", under a name that stands for
what it was made from: the checkpoint's config, its files with their sizes and times, and what the target puts into it. So
all quantisations of a target share one, and a checkpoint that changes is converted anew. Of a checkpoint from the Hub the
repository and its commit stand for the files, so that these need not be there any more. Whatever lies there can be deleted
at any time.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, Iterator, List, Optional, Union

from ..cache_folder import cache_folder
from ..gguf_file import GgufFile
from ..progress import Progress
from . import convert
from .checkpoint import Checkpoint
from .keys import uses_mrope

# where huggingface_hub keeps a repository's files
_SNAPSHOT = re.compile(r"/models--(?P<org>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})$")
FORMAT = 2  # raise it when what `convert` writes changes


def converted(checkpoint: Union[str, "os.PathLike[str]"], target: Union[str, "os.PathLike[str]"]) -> Path:
    """The GGUF file of a checkpoint for a target, made now if it is not in the cache.

    Processes that want the same one at the same time convert it once: the others wait.

    Raises:
        ValueError: If the checkpoint can't be converted for the target, or the cache not be written.
    """
    folder = cache_folder() / "drafters"
    path = folder / _name(Checkpoint(checkpoint), GgufFile(target))
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_suffix(".lock")):
            if not path.is_file():
                _remove_unfinished(path)
                _convert(checkpoint, target, path)
    except OSError as error:
        raise ValueError(
            f"{checkpoint} can't be converted into {folder} ({error.strerror or error}): set LLAMA_DFLASH_CACHE to a"
            " folder with room, or convert it with `llama-dflash convert` and name the GGUF file"
        ) from error
    return path


def known(repo: str, commit: str, target: Union[str, "os.PathLike[str]"]) -> Optional[Path]:
    """The file that a checkpoint from the Hub was converted to for a target; None if it was not."""
    path = cache_folder() / "drafters" / _hub_name(repo, commit, GgufFile(target))
    return path if path.is_file() else None


def _name(checkpoint: Checkpoint, target: GgufFile) -> str:
    snapshot = _SNAPSHOT.search(checkpoint.folder.absolute().as_posix())
    if snapshot is not None:
        return _hub_name(f"{snapshot['org']}/{snapshot['name']}", snapshot["commit"], target)
    files = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in checkpoint.files]
    return _named(checkpoint.folder.resolve().name, [checkpoint.config, files], target)


def _hub_name(repo: str, commit: str, target: GgufFile) -> str:
    return _named(repo.split("/")[1], [repo, commit], target)


def _named(name: str, source: List[Any], target: GgufFile) -> str:
    model = [
        target.arch,
        target.of_arch("embedding_length"),
        target.n_layers,
        uses_mrope(target),
        target.digest("tokenizer."),
    ]
    made_from = json.dumps([FORMAT, *source, model], sort_keys=True)
    return f"{name}-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.gguf"


def _convert(checkpoint: Union[str, "os.PathLike[str]"], target: Union[str, "os.PathLike[str]"], path: Path) -> None:
    progress = Progress(f"converting {checkpoint}")
    try:
        convert(checkpoint, target, path, on_progress=progress)
    finally:
        progress.close()


def _remove_unfinished(path: Path) -> None:
    """What a process that was killed left of this file."""
    for unfinished in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError):
            unfinished.unlink()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other process is in here with the same lock file."""
    try:
        import fcntl
    except ImportError:  # no such locks: a file that two processes make at once still appears whole
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # goes with the process, however that ends
        yield
