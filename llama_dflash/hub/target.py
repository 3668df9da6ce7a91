"""A target from the Hub, and whether a drafter fits it before either is downloaded."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, List, Sequence, Union

from .choice import Choice, drafter_files, further_files, target_files
from .drafter import misfits
from .ids import HubId, as_hub_id
from .outline import outline
from .repository import Access, HubError, Repository


def fetch_target(
    id: HubId,
    access: Access = Access(),
    drafters: Any = None,
    further: Sequence[str] = (),
    local_dir: Union[str, "os.PathLike[str]", None] = None,
) -> Path:
    """Downloads a target's GGUF file and, of a model that was split, its other parts, unless they are in the cache.

    Args:
        drafters: What `draft_model=` takes. Those that are files, here or on the Hub, are compared with the target before it
            is downloaded.
        further: Names or patterns of files to download with it.
        local_dir: Where to put the files; None: into the cache.

    Returns:
        The file to load.

    Raises:
        HubError: If there is no such model, the Hub can't be reached, or a drafter was made for another target.
        ImportError: If huggingface_hub is not installed.
    """
    repo = Repository(id, access)
    choice = target_files(repo)
    if drafters and not repo.has(choice.names):
        check_drafters(repo, choice, drafters, access)
    return repo.download([*choice.names, *further_files(repo, further)], local_dir) / str(choice.first)


def check_drafters(repo: Repository, choice: Choice, drafters: Any, access: Access) -> None:
    """
    Raises:
        HubError: If a drafter was made for another target.
    """
    from ..drafts import Draft

    items = drafters if isinstance(drafters, (list, tuple)) else [drafters]
    names = [item.file if isinstance(item, Draft) else item for item in items if isinstance(item, (str, os.PathLike, Draft))]
    files = [name for name in names if name and (as_hub_id(name) is not None or os.path.exists(name))]
    if not files:
        return
    with tempfile.TemporaryDirectory(prefix="llama-dflash-") as temporary:
        target = outline(repo, choice.names, Path(temporary) / "target") / str(choice.first)
        for item in files:
            problems = _problems_of(item, str(target), Path(temporary), access)
            if problems:
                raise HubError(f"{item} does not fit {repo.id}, and neither was downloaded: {'; '.join(problems)}")


def _problems_of(drafter: Any, target: str, folder: Path, access: Access) -> List[str]:
    id = as_hub_id(drafter)
    if id is None:
        return misfits(target, _gguf_in(Path(drafter)))
    repo = Repository(id, access)
    choice = drafter_files(repo)
    if any(name.endswith(".bin") for name in choice.names):
        return []
    there = outline(repo, choice.names, folder / id.name)
    return misfits(target, there if choice.first is None else there / choice.first)


def _gguf_in(path: Path) -> Path:
    from ..drafts.file_draft import gguf_at

    return gguf_at(path) or (path if path.is_dir() else path.parent)
