"""`ConvertedDraft`: drafters that are published as checkpoints (safetensors, or torch's own files)."""

from __future__ import annotations

import json
import os
from pathlib import Path

from .file_draft import FileDraft, gguf_at


class ConvertedDraft(FileDraft):
    """A drafter whose path may be a checkpoint, which is converted once into a cache."""

    takes_checkpoints = True

    def _gguf_for(self, target: str) -> Path:
        """The path if it is a GGUF file, or the one that a checkpoint was converted to.

        Raises:
            ValueError: If the checkpoint can't be converted for the target, or there is no such target.
        """
        file = gguf_at(self.path)
        if file is not None:
            return file
        if not os.path.exists(target):
            raise ValueError(f"Model path does not exist: {target}")  # as llama_cpp.Llama says it
        from ..convert.cache import converted  # here: most drafters need no converter

        try:
            return converted(Path(self.path), target)
        except ValueError as error:
            raise ValueError(f"draft_model: {error}") from error


def is_eagle3_checkpoint(path: str) -> bool:
    """True if a folder, or the folder of a safetensors file, has the config.json of an EAGLE-3 head."""
    folder = Path(path) if os.path.isdir(path) else Path(path).parent
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False  # whoever converts it says what is wrong
    from ..convert.eagle3 import is_eagle3

    return isinstance(config, dict) and is_eagle3(config)
