"""`MTPDraft`: the settings of a model's own next-token-prediction layer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from ..gguf_file import GgufFile
from .beam_draft import BeamDraft


@dataclass(frozen=True)
class MTPDraft(BeamDraft):
    """The layer for predicting further tokens (MTP) that models such as Qwen3.5 carry, and how to draft with it, for
    `Llama(draft_model=...)`. `draft_model="mtp"` is one with the default settings.

    Args:
        path: "" for the layer in the target's own file; else a GGUF file of the layer alone, or a folder with one.
        budget: Nodes of the draft tree beside its root in every round, at least 1 and less than the target's n_ubatch. "auto"
            chooses in every round what promises the most tokens per second by the costs measured so far, and decodes plainly
            while drafts do not pay.
        mode: "tree" verifies the most probable continuations at once, "chain" the most probable one. Targets whose memory
            can't hold a tree verify chains in either mode.
        depth: Tokens that are drafted ahead, each a forward pass of the layer.
        width: Nodes of a depth that are expanded, at most.
        context: Positions of the text that the layer remembers; older ones are forgotten.
        n_gpu_layers: Of a file of the layer alone: layers on the GPU, -1 for all. None: as many as the target's.
        type_k: ggml type of the layer's K cache. None: F16.
        type_v: ggml type of the layer's V cache. None: F16.
        flash_attn: Whether the layer's attention is computed by ggml's flash attention, where the device has it.
        device_outputs: Whether candidates, and tokens at temperature 0, are found where the logits are computed. None: on a
            GPU.
        calibrated: Whether a node counts as probable as what was accepted so far says of nodes like it. False: as the drafter
            says.
        tuned: A file that `Llama.save_tuned` wrote: what was learned then about costs and acceptance is where learning goes
            on. None: from nothing.

    Raises:
        ValueError: If a setting has a wrong type or value. The file is looked at when a `Llama` loads it.
    """

    kind = "mtp"
    article = "an"
    word = "mtp"
    asked_for = "that of an MTP layer alone"
    architectures = ()

    path: str = ""
    budget: Union[str, int] = "auto"
    mode: str = "tree"
    depth: int = 5
    width: int = 4
    context: int = 4096
    n_gpu_layers: Optional[int] = None
    type_k: Optional[int] = None
    type_v: Optional[int] = None
    flash_attn: bool = True
    device_outputs: Optional[bool] = None
    calibrated: bool = True
    tuned: Optional[str] = None

    @property
    def loads_target_layer(self) -> bool:
        """Whether the target is to be loaded with its MTP layer."""
        return not self.path

    def ready_for(self, target: str) -> MTPDraft:
        if self.path:
            return super().ready_for(target)  # type: ignore[return-value]
        if Path(target).is_file() and n_mtp_layers(target) == 0:
            raise ValueError(
                f'draft_model: {target} has no MTP layer, which draft_model="mtp" drafts with: use a file that was converted '
                "with it (it then has nextn_predict_layers), or another draft_model"
            )
        return dataclasses.replace(self)


def n_mtp_layers(path: Union[str, Path]) -> int:
    """As a GGUF file says; 0 if it can't be read."""
    try:
        n_layers = GgufFile(path).of_arch("nextn_predict_layers", 0)
    except ValueError:
        return 0
    return n_layers if isinstance(n_layers, int) else 0


def is_mtp_alone(path: Union[str, Path]) -> bool:
    """True for a GGUF file that holds an MTP layer and none of the layers before it."""
    if n_mtp_layers(path) == 0:
        return False
    try:
        names = {tensor.name for part in GgufFile(path).parts() for tensor in part.tensors}
    except ValueError:
        return False
    return not any(name.startswith("blk.0.") for name in names)
