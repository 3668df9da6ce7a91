"""`FileDraft`: settings of the drafters that are models in files of their own."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, ClassVar, Dict, Optional, Tuple, Union

from ..hub import Access, HubId, as_hub_id
from .draft import Draft

# ggml types that llama.cpp keeps K and V in
CACHE_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 20: "IQ4_NL", 30: "BF16"}


class FileDraft(Draft):
    """A drafter with weights: a model that is loaded beside the target, with a memory of its own.

    Attributes:
        takes_checkpoints: Whether its path may be a published checkpoint, and not a GGUF file alone.
        asked_for: What the sentence that says what `draft_model=` takes calls its path.
        architectures: `general.architecture` of its GGUF files.
        path: A GGUF file, a folder with one, or an id of the Hub (llama_dflash.hub.as_hub_id).
        context: Positions that it remembers.
        n_gpu_layers: Layers on the GPU, -1 for all. None: as many as the target's.
        type_k: ggml type of its K cache. None: F16.
        type_v: ggml type of its V cache. None: F16.
    """

    takes_checkpoints: ClassVar[bool] = False
    asked_for: ClassVar[str]
    architectures: ClassVar[Tuple[str, ...]]

    path: str
    context: int
    n_gpu_layers: Optional[int]
    type_k: Optional[int]
    type_v: Optional[int]

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, os.PathLike)) or not isinstance(os.fspath(self.path), str):
            self._refuse("path", "a str or a path")
        object.__setattr__(self, "path", os.fspath(self.path))
        super().__post_init__()
        self._check_int("context", 1, "a number of positions, at least 1")
        if self.n_gpu_layers is not None:
            self._check_int("n_gpu_layers", -1, "a number of layers, -1 for all, or None")
        for name in ("type_k", "type_v"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value not in CACHE_TYPES):
                known = ", ".join(f"{number} ({text})" for number, text in CACHE_TYPES.items())
                self._refuse(name, f"a ggml type for a cache: {known}, or None")

    @property
    def file(self) -> Optional[str]:
        return self.path or None

    @classmethod
    def drafts_with(cls, architecture: str) -> bool:
        """True if a GGUF file of this architecture is a drafter of this kind."""
        return architecture in cls.architectures

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: Optional[str] = None,
        *,
        revision: Optional[str] = None,
        token: Union[str, bool, None] = None,
        cache_dir: Union[str, "os.PathLike[str]", None] = None,
        **settings: Any,
    ) -> FileDraft:
        """A drafter from the Hugging Face Hub, downloaded now unless it is in the cache.

        Args:
            repo_id: "org/name".
            filename: A GGUF file of the repository, a pattern that one matches, or its quantisation ("Q8_0"). None: the
                checkpoint or the one GGUF file that is there.
            revision: A branch, a tag or a commit.
            token, cache_dir: As of huggingface_hub.hf_hub_download.
            **settings: The class's own, such as budget.

        Raises:
            ValueError: If there is no such repository or file, or the Hub can't be reached. The message says what to do.
            ImportError: If huggingface_hub is not installed.
        """
        from ..hub.drafter import fetch_drafter

        id = HubId(repo_id, revision, filename)
        path = fetch_drafter(id, access=Access(token, cache_dir), gguf_only=not cls.takes_checkpoints)
        return cls(str(path), **settings)  # type: ignore[call-arg]

    def ready_for(self, target: str) -> FileDraft:
        draft = self._fetched(target)
        draft = dataclasses.replace(draft, path=str(draft._gguf_for(target)))
        check_gguf(draft.path)
        return draft

    def _fetched(self, target: str) -> FileDraft:
        """Itself, or the same with a file of the Hub."""
        id = as_hub_id(self.path)
        if id is None:
            return self
        from ..hub.drafter import fetch_drafter

        return dataclasses.replace(self, path=str(fetch_drafter(id, target, gguf_only=not self.takes_checkpoints)))

    def engine_params(self, n_gpu_layers: int) -> Dict[str, Any]:
        params = {
            "path": os.fsencode(self.path),
            "n_context": self.context,
            "n_gpu_layers": n_gpu_layers if self.n_gpu_layers is None else self.n_gpu_layers,
        }
        types = {"type_k": self.type_k, "type_v": self.type_v}
        return {**params, **{name: value for name, value in types.items() if value is not None}}

    def _gguf_for(self, target: str) -> Path:
        """The GGUF file to load. A kind that converts published checkpoints does so here."""
        return gguf_at(self.path) or Path(self.path)


def gguf_at(path: Union[str, Path]) -> Optional[Path]:
    """The path itself, or the GGUF file in a folder that holds no checkpoint, as a snapshot of a Hub repository of GGUF files
    does; None for a checkpoint (safetensors) or a folder with neither.

    Raises:
        ValueError: If there are several.
    """
    path = Path(path)
    if not path.is_dir():
        return None if path.suffix in (".safetensors", ".bin") and path.is_file() else path
    if any(path.glob("*.safetensors")) or (path / "pytorch_model.bin").is_file():
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:5])
        raise ValueError(f"draft_model: {path} holds {len(files)} GGUF files ({names}): name the one to draft with")
    return files[0] if files else None


def check_gguf(path: Union[str, Path]) -> None:
    """Says before anything is loaded what can be said about the path.

    Raises:
        ValueError: If it is missing, unreadable, or no GGUF file.
    """
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise ValueError(f"draft_model: no such file: {path}") from None
    except OSError as error:
        raise ValueError(f"draft_model: {path} can't be read: {error.strerror or error}") from None
    if magic != b"GGUF":
        raise ValueError(f"draft_model: {path} is no GGUF file: it starts with {magic!r}, expected b'GGUF'")
