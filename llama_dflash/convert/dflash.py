"""DFlash drafters and their kin (DFlash2, DSpark, Domino): from a checkpoint to what llama.cpp's architecture "dflash" reads."""

from __future__ import annotations

from ..gguf_file import GgufFile
from .checkpoint import Checkpoint
from .config import DrafterConfig, read_config
from .keys import keys
from .plan import Plan, check_is_target
from .tensors import check_tensors, tensors_to_write

ARCH = "dflash"


def plan(checkpoint: Checkpoint, target: GgufFile) -> Plan:
    """What a drafter's GGUF file holds.

    Raises:
        ValueError: If the checkpoint is no drafter's, incomplete or damaged, or was not made for the target.
    """
    config = read_config(checkpoint.config)
    check_target(config, target)
    found = check_tensors(config, checkpoint.tensors, target.n_layers)
    return Plan(
        ARCH,
        list(keys(config, target, "confidence_head.proj.weight" in found)),
        list(tensors_to_write(config, found, target)),
        [source.dtype for source in found.values() if len(source.shape) > 1],
        config.mask_token,
    )


def check_target(config: DrafterConfig, target: GgufFile) -> None:
    """Compares a drafter's config with the target it is meant for.

    Raises:
        ValueError: If the drafter was made for another one.
    """
    check_is_target(target)
    other = "this drafter was made for another target"
    n_embd, n_layers = target.of_arch("embedding_length"), target.n_layers
    if config.n_embd != n_embd:
        raise ValueError(f"the drafter has hidden size {config.n_embd}, the target {target.path} {n_embd}: {other}")
    if config.n_vocab != target.n_vocab:
        raise ValueError(
            f"the drafter has a vocabulary of {config.n_vocab} tokens, the target {target.path} of {target.n_vocab}:"
            f" {other}"
        )
    if (meant := config.find("num_target_layers")) not in (None, n_layers):
        raise ValueError(f"the drafter is for a target of {meant} layers, {target.path} has {n_layers}: {other}")
    outside = [i for i in config.target_layers(n_layers) if not -1 <= i < n_layers]
    if outside:
        raise ValueError(
            f"the drafter reads the target's layer {outside[0]}, {target.path} has layers 0 to {n_layers - 1} (and -1, its"
            f" embeddings): {other}"
        )
    if not 0 <= config.mask_token < target.n_vocab:
        raise ValueError(
            f"the drafter's mask token is {config.mask_token}, {target.path} has tokens 0 to {target.n_vocab - 1}:"
            f" {other}"
        )
