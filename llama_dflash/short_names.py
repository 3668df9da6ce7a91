"""Models that `llama-dflash pull` has fetched, by the short names that it gave them: names.json in the folder of settings."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional

from .cache_folder import config_folder


@dataclass(frozen=True)
class Pulled:
    """A target and what drafts for it.

    Attributes:
        name: Short.
        model: Where the target is from: an id of the Hub or a path.
        file: Its GGUF file here.
        draft_model: As `draft_model=` takes them: paths, ids of the Hub, words.
    """

    name: str
    model: str
    file: str
    draft_model: List[str] = field(default_factory=list)


def pulled() -> Dict[str, Pulled]:
    """All of them by their names.

    Raises:
        ValueError: If names.json is damaged.
    """
    path = _path()
    try:
        listed: Dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: Pulled(name=name, **entry) for name, entry in listed.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} can't be used ({error}): delete it, and pull the models again") from None


def find(name: str) -> Optional[Pulled]:
    """What a short name stands for; None if there is a file of that name, or no such short name."""
    return None if os.path.exists(name) else pulled().get(name.lower())


def target_file(name: str) -> Optional[str]:
    """The GGUF file of a short name; None if it is none."""
    found = find(name)
    return None if found is None else found.file


def save(entry: Pulled) -> None:
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = {name: {key: value for key, value in asdict(known).items() if key != "name"} for name, known in pulled().items()}
    listed[entry.name] = {key: value for key, value in asdict(entry).items() if key != "name"}
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    unfinished.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def proposed(model: str) -> str:
    """A short name for a model: that of its repository or file, without what says its format."""
    base = model.split("://")[-1].split("@")[0].split(":")[0].rstrip("/").split("/")[-1].lower()
    base = re.sub(r"\.gguf$", "", base)
    base = re.sub(r"[-_.](gguf|(i?q\d\w*|f16|bf16|f32))$", "", base)
    return re.sub(r"[-_.]gguf$", "", base) or "model"


def _path() -> Path:
    return config_folder() / "names.json"
