"""Which files of a repository make the model or the drafter that somebody named."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from .repository import HubError, Repository

DEFAULT_QUANTISATION = "Q4_K_M"  # of a target, where nothing was said: what llama.cpp's -hf takes

_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_NO_MODELS = ("mmproj", "imatrix")  # GGUF files that are parts of others
_ABOUT = ("config.json", "README.md", "model.safetensors.index.json")


@dataclass(frozen=True)
class Choice:
    """names: What is to be downloaded. first: The GGUF file to load; None for a checkpoint, which is the folder."""

    names: Tuple[str, ...]
    first: Optional[str] = None
    n_bytes: int = 0


def target_files(repo: Repository) -> Choice:
    """The GGUF file, with its further parts, that a target's id names.

    Raises:
        HubError: If none or several would do.
    """
    groups = _gguf_groups(repo)
    if not groups:
        raise HubError(f"{repo.id}: {repo.id.repo} has no GGUF files: name a repository that has, such as one whose name ends in -GGUF")
    return _the_one(repo, groups, DEFAULT_QUANTISATION)


def drafter_files(repo: Repository) -> Choice:
    """The checkpoint or the GGUF file that a drafter's id names.

    Raises:
        HubError: If there is none, or several would do.
    """
    groups = _gguf_groups(repo)
    if repo.id.file is None and _is_checkpoint(repo.files):
        weights = [name for name in repo.files if fnmatch.fnmatch(name, "model*.safetensors")] or ["pytorch_model.bin"]
        names = [*(name for name in _ABOUT if name in repo.files), *weights]
        return Choice(tuple(names), None, sum(repo.files[name] for name in weights))
    if not groups:
        raise HubError(
            f"{repo.id}: {repo.id.repo} holds no drafter: expected a GGUF file, or config.json with model*.safetensors or"
            f" pytorch_model.bin (it has {_list(sorted(repo.files))})"
        )
    return _the_one(repo, groups, None)


def further_files(repo: Repository, patterns: Sequence[str]) -> List[str]:
    """The files that names or patterns stand for, one each.

    Raises:
        HubError: If there is none, or several.
    """
    names = []
    for pattern in patterns:
        found = [name for name in repo.files if fnmatch.fnmatch(name, pattern)]
        if len(found) != 1:
            what = "no file" if not found else f"{len(found)} files"
            raise HubError(f"{repo.id}: {what} of {repo.id.repo} match {pattern} (it has {_list(found or sorted(repo.files))})")
        names += found
    return names


def _is_checkpoint(files: Dict[str, int]) -> bool:
    has_weights = any(fnmatch.fnmatch(name, "model*.safetensors") for name in files) or "pytorch_model.bin" in files
    return "config.json" in files and has_weights


def _gguf_groups(repo: Repository) -> Dict[str, List[str]]:
    """The GGUF models by their first files: a model that was split is several."""
    groups: Dict[str, List[str]] = {}
    for name in sorted(name for name in repo.files if name.lower().endswith(".gguf")):
        if name.rsplit("/", 1)[-1].lower().startswith(_NO_MODELS):
            continue
        shard = _SHARD.fullmatch(name)
        first = name if shard is None else f"{shard['stem']}-00001-of-{shard['count']}.gguf"
        groups.setdefault(first, []).append(name)
    return groups


def _the_one(repo: Repository, groups: Dict[str, List[str]], default: Optional[str]) -> Choice:
    wanted = repo.id.file
    found = [first for first in groups if wanted is None or _is_called(first, wanted)]
    if wanted is None and len(found) > 1 and default is not None:
        found = [first for first in groups if _is_called(first, default)] or found
    if len(found) != 1:
        what = f"no GGUF file {wanted}" if not found else f"{len(found)} GGUF files that this may mean"
        example = next(iter(found or groups)).rsplit("/", 1)[-1]
        raise HubError(
            f"{repo.id}: {repo.id.repo} has {what}: name one, as in {repo.id.repo}:{example} (it has {_list(found or list(groups))})"
        )
    names = groups[found[0]]
    return Choice(tuple(names), found[0], sum(repo.files[name] for name in names))


def _is_called(name: str, wanted: str) -> bool:
    """By its path, its name, a pattern, or the quantisation that its name ends with."""
    base = name.rsplit("/", 1)[-1].lower()
    wanted = wanted.lower()
    if fnmatch.fnmatchcase(name.lower(), wanted) or fnmatch.fnmatchcase(base, wanted):
        return True
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", base[: -len(".gguf")])
    return re.search(rf"(^|[-._]){re.escape(wanted)}$", stem) is not None


def _list(names: List[str]) -> str:
    shown = ", ".join(names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown or "nothing"
