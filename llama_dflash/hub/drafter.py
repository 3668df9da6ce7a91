"""A drafter from the Hub: its files here, and converted, once it is known that it fits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import List, Optional, Union

from .choice import Choice, drafter_files
from .ids import HubId
from .outline import outline
from .repository import Access, HubError, Repository

CHECKED_FROM = 8 << 20  # bytes: a smaller drafter is downloaded at once, and whoever loads it says whether it fits


def fetch_drafter(id: HubId, target: Optional[str] = None, access: Access = Access(), *, gguf_only: bool = False) -> Path:
    """Downloads a drafter, unless it is in the cache.

    Args:
        target: The GGUF file of the target. Before anything large is downloaded, the two are compared. None: they are not.
        gguf_only: A checkpoint will not do.

    Returns:
        Its GGUF file, a published checkpoint's folder, or the GGUF file that the checkpoint was converted to before.

    Raises:
        HubError: If there is no such drafter, the Hub can't be reached, or the drafter was made for another target.
        ImportError: If huggingface_hub is not installed.
    """
    repo = Repository(id, access)
    choice = drafter_files(repo)
    if choice.first is None:
        if gguf_only:
            raise HubError(f"{id}: {id.repo} is a checkpoint, expected a repository with a GGUF file, or the name of one: {id.repo}:FILE.gguf")
        before = None if target is None else _converted_before(repo, target)
        if before is not None:
            return before
    if target is not None and Path(target).is_file() and choice.n_bytes >= CHECKED_FROM and not repo.has(choice.names):
        problems = drafter_problems(repo, choice, target)
        if problems:
            raise HubError(f"{id} does not fit {target}, and was not downloaded: {'; '.join(problems)}")
    folder = repo.download(choice.names)
    return folder if choice.first is None else folder / choice.first


def drafter_problems(repo: Repository, choice: Choice, target: str) -> List[str]:
    """Why a drafter that is not downloaded yet can't draft for a target: sentences, none if the two fit or the files of this
    format don't say."""
    if any(name.endswith(".bin") for name in choice.names):
        return []
    with tempfile.TemporaryDirectory(prefix="llama-dflash-") as temporary:
        folder = outline(repo, choice.names, Path(temporary) / repo.id.name)
        return misfits(target, folder if choice.first is None else folder / choice.first)


def misfits(target: str, drafter: Union[str, Path]) -> List[str]:
    """Why a drafter, a GGUF file or a checkpoint's folder, can't draft for a target's GGUF file."""
    from .. import _engine

    if not Path(drafter).is_dir():
        return _engine.misfits(target, drafter)
    from ..convert import check

    try:
        check(drafter, target)
    except ValueError as error:
        return [str(error)]
    return _engine.misfits(target)


def _converted_before(repo: Repository, target: str) -> Optional[Path]:
    from ..convert.cache import known

    return known(repo.id.repo, repo.commit, target) if Path(target).is_file() else None
