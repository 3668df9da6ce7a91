"""Which published drafters are known for a target: pairs.json, asked with what a GGUF file says about itself.

A pairs.json of the same form in the user's folder of settings (~/.config/llama-dflash) adds targets, or puts other drafters in
front of a target that is known.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

from .cache_folder import config_folder
from .gguf_file import GgufFile

FORMATS = {"dflash": "DFlash", "dflash2": "DFlash2", "dspark": "DSpark", "eagle3": "EAGLE-3"}


@dataclass(frozen=True)
class Drafter:
    """A published drafter. source: where its id was read."""

    repo: str
    publisher: str
    format: str  # a key of FORMATS
    source: str
    note: Optional[str] = None


@dataclass(frozen=True)
class Target:
    """A model that drafters are published for. The numbers are those of its GGUF files."""

    name: str
    model: str  # of the Hub, as its authors published it
    architecture: str
    layers: int
    hidden_size: int
    vocabulary: int
    drafters: Tuple[Drafter, ...]

    @property
    def shape(self) -> Tuple[str, int, int, int]:
        return self.architecture, self.layers, self.hidden_size, self.vocabulary


def known_targets() -> Tuple[Target, ...]:
    """All of pairs.json, and of the user's.

    Raises:
        ValueError: If the user's is of another form.
    """
    theirs = config_folder() / "pairs.json"
    listed = _listed(Path(__file__).parent / "pairs.json")
    if not theirs.is_file():
        return listed
    try:
        own = {target.name: target for target in _listed(theirs)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{theirs} can't be used ({type(error).__name__}: {error}), expected the form of {Path(__file__).parent / 'pairs.json'}") from None
    merged = [
        target if target.name not in own else dataclasses.replace(target, drafters=own.pop(target.name).drafters + target.drafters)
        for target in listed
    ]
    return (*own.values(), *merged)


def _listed(path: Path) -> Tuple[Target, ...]:
    listed: List[Dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["targets"]
    return tuple(Target(**{**entry, "drafters": tuple(Drafter(**drafter) for drafter in entry["drafters"])}) for entry in listed)


def targets_like(file: GgufFile) -> List[Target]:
    """Which known targets a GGUF file may be: one, where its sizes, or else the name that is written in it, tell; several, where
    they don't; none for an unknown model.

    A fine-tuned model has its origin's sizes. Its drafters fit it too, and guess less well.
    """
    shape = (file.arch, file.n_layers, file.of_arch("embedding_length"), file.n_vocab)
    found = [target for target in known_targets() if target.shape == shape]
    if len(found) < 2:
        return found
    words = _names_in(file)
    named = [target for target in found if _words(target.name) <= words]
    longest = max((len(_words(target.name)) for target in named), default=0)
    return [target for target in named if len(_words(target.name)) == longest] or found


def targets_called(name: str) -> List[Target]:
    """Known targets whose name, or whose model's id, has all the words of `name`."""
    wanted = _words(name.split("/")[-1])
    return [target for target in known_targets() if wanted <= _words(target.name)] if wanted else []


def _names_in(file: GgufFile) -> Set[str]:
    keys = ("general.name", "general.basename", "general.size_label", "general.finetune", "general.version")
    names = [file.get(key) for key in (*keys, "general.base_model.0.name")]
    return set().union(*(_words(name) for name in names if isinstance(name, str)))


def _words(name: str) -> Set[str]:
    """"Qwen3.5-27B" and "Qwen3.5 27B Q4" have two words in common."""
    return {word for word in re.split(r"[^a-z0-9.]+", name.lower()) if word}
