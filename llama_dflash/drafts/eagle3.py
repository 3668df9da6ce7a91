"""`Eagle3Draft`: the settings of an EAGLE-3 head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Union

from .beam_draft import BeamDraft
from .converted import ConvertedDraft


@dataclass(frozen=True)
class Eagle3Draft(ConvertedDraft, BeamDraft):
    """An EAGLE-3 head (arXiv 2503.01840) and how to draft with it, for `Llama(draft_model=...)`.

    Args:
        path: The head made for the target: a GGUF file of architecture "eagle3", a folder with one such file, or a checkpoint
            as it is published (SafeAILab's, specforge's or speculators'), which is converted once into a cache.
        budget: Nodes of the draft tree beside its root in every round, at least 1 and less than the target's n_ubatch. "auto"
            chooses in every round what promises the most tokens per second by the costs measured so far, and decodes plainly
            while drafts do not pay.
        mode: "tree" verifies the most probable continuations at once, "chain" the most probable one. Targets whose memory
            can't hold a tree verify chains in either mode.
        depth: Tokens that are drafted ahead, each a forward pass of the head.
        width: Nodes of a depth that are expanded, at most.
        context: Positions of the text that the head remembers; older ones are forgotten.
        n_gpu_layers: Layers of the head on the GPU, -1 for all. None: as many as the target's.
        type_k: ggml type of the head's K cache. None: F16.
        type_v: ggml type of the head's V cache. None: F16.
        flash_attn: Whether the head's attention is computed by ggml's flash attention, where the device has it.
        device_outputs: Whether candidates, and tokens at temperature 0, are found where the logits are computed. None: on a
            GPU.
        calibrated: Whether a node counts as probable as what was accepted so far says of nodes like it. False: as the drafter
            says.
        tuned: A file that `Llama.save_tuned` wrote: what was learned then about costs and acceptance is where learning goes
            on. None: from nothing.

    Raises:
        ValueError: If a setting has a wrong type or value. The file is looked at when a `Llama` loads it.
    """

    kind = "eagle3"
    article = "an"
    asked_for = "that of an EAGLE-3 head"
    architectures = ("eagle3",)

    path: str
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
