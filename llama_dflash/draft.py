"""What a user says about a draft model: which file, how many nodes, how much memory."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

# ggml types that llama.cpp keeps K and V in
CACHE_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 20: "IQ4_NL", 30: "BF16"}


@dataclass(frozen=True)
class DFlashDraft:
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
        synthetic_length: To time models of random weights: every round accepts so many tokens in the mean (the bonus
            token included, at least 1), whatever the target says. The text is then meaningless.

    Raises:
        ValueError: If a setting has a wrong type or value. The file is looked at when a `Llama` loads it.
    """

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
    synthetic_length: Optional[float] = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, os.PathLike)) or not isinstance(os.fspath(self.path), str):
            raise ValueError(f"DFlashDraft: path is {self.path!r}, expected a str or a path")
        object.__setattr__(self, "path", os.fspath(self.path))
        if self.budget != "auto":
            _check_int("budget", self.budget, 1, '"auto" or a number of nodes, at least 1')
        if self.mode not in ("tree", "chain"):
            raise ValueError(f'DFlashDraft: mode is {self.mode!r}, expected "tree" or "chain"')
        if self.block not in ("whole", "short"):
            raise ValueError(f'DFlashDraft: block is {self.block!r}, expected "whole" or "short"')
        _check_int("context", self.context, 1, "a number of positions, at least 1")
        if self.n_gpu_layers is not None:
            _check_int("n_gpu_layers", self.n_gpu_layers, -1, "a number of layers, -1 for all, or None")
        if not isinstance(self.flash_attn, bool):
            raise ValueError(f"DFlashDraft: flash_attn is {self.flash_attn!r}, expected True or False")
        if self.device_outputs is not None and not isinstance(self.device_outputs, bool):
            raise ValueError(f"DFlashDraft: device_outputs is {self.device_outputs!r}, expected True, False or None")
        length = self.synthetic_length
        if length is not None and (isinstance(length, bool) or not isinstance(length, (int, float)) or not 1 <= length < 1e6):
            raise ValueError(f"DFlashDraft: synthetic_length is {length!r}, expected a number of tokens, at least 1, or None")
        for name in ("type_k", "type_v"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value not in CACHE_TYPES):
                known = ", ".join(f"{number} ({text})" for number, text in CACHE_TYPES.items())
                raise ValueError(f"DFlashDraft: {name} is {value!r}, expected a ggml type for a cache: {known}, or None")

    def converted_for(self, target: str) -> DFlashDraft:
        """Itself if the path is a file to load, or with the GGUF file that a checkpoint was converted to.

        Raises:
            ValueError: If the checkpoint can't be converted for the target, or there is no such target.
        """
        path = Path(self.path)
        if not path.is_dir() and not (path.suffix == ".safetensors" and path.is_file()):
            return self
        if (file := _gguf_in(path)) is not None:
            return dataclasses.replace(self, path=str(file))
        if not os.path.exists(target):
            raise ValueError(f"Model path does not exist: {target}")  # as llama_cpp.Llama says it
        from .convert.cache import converted  # here: most drafters need no converter

        try:
            return dataclasses.replace(self, path=str(converted(path, target)))
        except ValueError as error:
            raise ValueError(f"draft_model: {error}") from error

    def check_file(self) -> None:
        """Says before anything is loaded what can be said about the path.

        Raises:
            ValueError: If it is missing, unreadable, or no GGUF file.
        """
        path = Path(self.path)
        try:
            with path.open("rb") as file:
                magic = file.read(4)
        except FileNotFoundError:
            raise ValueError(f"draft_model: no such file: {path}") from None
        except OSError as error:
            raise ValueError(f"draft_model: {path} can't be read: {error.strerror or error}") from None
        if magic != b"GGUF":
            raise ValueError(f"draft_model: {path} is no GGUF file: it starts with {magic!r}, expected b'GGUF'")


def _gguf_in(folder: Path) -> Optional[Path]:
    """The GGUF file of a folder that holds no checkpoint, as a snapshot of a Hub repository of GGUF files does.

    Raises:
        ValueError: If there are several.
    """
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return None
    files = sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:5])
        raise ValueError(f"draft_model: {folder} holds {len(files)} GGUF files ({names}): name the one to draft with")
    return files[0] if files else None


def _check_int(name: str, value: object, least: int, expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise ValueError(f"DFlashDraft: {name} is {value!r}, expected {expected}")
