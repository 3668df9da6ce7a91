"""`BeamDraft`: settings of the drafters that run their model once for every depth of a tree."""

from __future__ import annotations

from typing import Any, ClassVar, Dict

from .file_draft import FileDraft


class BeamDraft(FileDraft):
    """A drafter that expands a tree a depth at a time: EAGLE-2's dynamic trees (arXiv 2406.16858, section 4).

    Attributes:
        depth: Tokens that it looks ahead, each a forward pass of the drafter.
        width: Nodes of a depth that are expanded, at most.
    """

    most: ClassVar[int] = 64  # of both

    depth: int
    width: int
    flash_attn: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("depth", "width"):
            self._check_int(name, 1, f"1 to {self.most}")
            if getattr(self, name) > self.most:
                self._refuse(name, f"1 to {self.most}")
        self._check_flag("flash_attn")

    def engine_params(self, n_gpu_layers: int) -> Dict[str, Any]:
        params = super().engine_params(n_gpu_layers)
        return {**params, "depth": self.depth, "width": self.width, "flash_attn": self.flash_attn}


