"""What names a model or a drafter on the Hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, Optional

SCHEME = "hf://"

_NAME = r"[A-Za-z0-9][\w.-]*"
_REPO = rf"(?P<repo>{_NAME}/{_NAME})"
_REVISION = r"(?:@(?P<revision>refs/[\w-]+/[\w.-]+|[^:/\s]+))?"
_PLAIN = re.compile(rf"{_REPO}{_REVISION}(?::(?P<file>[^:]+))?")
_URL = re.compile(rf"{_REPO}{_REVISION}(?:[:/](?P<file>[^:]+))?")
_FILES = (".gguf", ".safetensors", ".bin", ".json", ".pt")


@dataclass(frozen=True)
class HubId:
    """A repository of the Hub, and perhaps one file of it.

    Attributes:
        repo: "org/name".
        revision: A branch, a tag or a commit; None for the repository's main branch.
        file: A file's name, a pattern ("*Q8_0*.gguf") or what GGUF files are called by ("Q8_0"). None: the one that is there.
    """

    repo: str
    revision: Optional[str] = None
    file: Optional[str] = None

    @property
    def name(self) -> str:
        return self.repo.split("/")[1]

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{self.repo}{revision}{'' if self.file is None else f':{self.file}'}"


def as_hub_id(text: Any) -> Optional[HubId]:
    """What a text names on the Hub, or None: it is the path of something that is there, or can't be an id.

    `hf://org/name@revision/folder/file.gguf` always is one. `org/name`, `org/name:file.gguf`, `org/name:Q8_0` and
    `org/name@revision:file.gguf` are unless there is such a file or folder, or the name ends like a file's.

    Raises:
        ValueError: If it begins with hf:// and is no id.
    """
    if not isinstance(text, (str, os.PathLike)):
        return None
    text = os.fspath(text)
    if not isinstance(text, str):
        return None
    if text.startswith(SCHEME):
        found = _URL.fullmatch(text[len(SCHEME) :])
        if found is None:
            raise ValueError(f"{text} is no id of the Hub, expected hf://org/name, hf://org/name@revision or hf://org/name/file.gguf")
        return HubId(found["repo"], found["revision"], found["file"])
    found = _PLAIN.fullmatch(text)
    if found is None or found["repo"].lower().endswith(_FILES) or ".." in text or os.path.exists(text):
        return None
    return HubId(found["repo"], found["revision"], found["file"])
