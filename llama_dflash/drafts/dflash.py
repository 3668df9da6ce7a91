"""`DFlashDraft`: the settings of a DFlash drafter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Union

from .converted import ConvertedDraft


@dataclass(frozen=True)
class DFlashDraft(ConvertedDraft):
    """A DFlash drafter (arXiv 2602.06036) and how to draft with it, for `Llama(draft_model=...)`.

    Args:
        path: The drafter made for the target: a GGUF file of architecture "dflash", a folder with one such file, or a
            checkpoint as it is published (a folder with config.json and *.safetensors, or such a file), which is converted
            once into a cache.
        budget: Nodes of the draft tree beside its root in every round, at least 1 and less than the
            target's n_ubatch. "auto" chooses in every round what promises the most tokens per second by
            the costs measured so far, and decodes plainly while drafts do not pay.
        mode: "tree" verifies the most probable continuations at once (DDTree, arXiv 2604.12989), "chain" the
            most probable one. Targets whose memory can't hold a tree verify chains in either mode.
        context: Positions of the text that the drafter remembers (a ring: older ones are forgotten). Its
            memory grows with this number, not with the target's n_ctx.
        n_gpu_layers: Layers of the drafter on the GPU, -1 for all. None: as many as the target's.
        type_k: ggml type of the drafter's K cache, for instance llama_cpp.GGML_TYPE_Q8_0. None: F16.
        type_v: ggml type of the drafter's V cache. None: F16.
        block: "whole" denoises the drafter's full block in every round, as its reference class does. "short" denoises only
            as many positions as the tree can use, which is cheaper where a forward pass over many tokens is not nearly free
            (on a CPU); a drafter whose positions see later ones may then predict slightly differently
            (docs/drafters.md has what was measured).
        flash_attn: Whether the drafter's attention is computed by ggml's flash attention, where the device has it. Without it
            drafts agree with the reference classes to 1e-4 in log-probability instead of about 1e-2, and take longer.
        device_outputs: Whether drafted candidates, and tokens at temperature 0, are found where the logits are
            computed, so that only they come to the host and not rows of the whole vocabulary, and the target's features
            stay on the drafter's device. None: on a GPU.
        calibrated: Whether a node counts as probable as what was accepted so far says of nodes like it. False: as the drafter
            says, as in DDTree.
        tuned: A file that `Llama.save_tuned` wrote: what was learned then about costs and acceptance is where learning goes
            on. None: from nothing.

    Raises:
        ValueError: If a setting has a wrong type or value. The file is looked at when a `Llama` loads it.
    """

    kind = "dflash"
    asked_for = "the path of a DFlash drafter"
    architectures = ("dflash",)

    path: str
    budget: Union[str, int] = "auto"
    mode: str = "tree"
    context: int = 4096
    n_gpu_layers: Optional[int] = None
    type_k: Optional[int] = None
    type_v: Optional[int] = None
    block: str = "whole"
    flash_attn: bool = True
    device_outputs: Optional[bool] = None
    calibrated: bool = True
    tuned: Optional[str] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("block", ("whole", "short"))
        self._check_flag("flash_attn")

    def engine_params(self, n_gpu_layers: int) -> Dict[str, Any]:
        params = super().engine_params(n_gpu_layers)
        return {**params, "flash_attn": self.flash_attn, "short_block": self.block == "short"}
