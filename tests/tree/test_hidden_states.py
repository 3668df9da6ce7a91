"""Layer inputs are what transformers calls `hidden_states`, of which drafters are trained. The fixture's maker says how."""

from __future__ import annotations

import sys
from pathlib import Path

import llama_dflash  # noqa: F401  before llama_cpp
import gguf
import numpy as np
import pytest

FIXTURE = Path(__file__).parents[1] / "fixtures" / "hidden_states"
sys.path.append(str(FIXTURE))

from architectures import N_LAYER, write_architecture  # noqa: E402
from context import Config, Context  # noqa: E402
from transformers_states import N_KEPT, SETTINGS, TOKENS  # noqa: E402

ROUNDING = 1e-3  # of the largest number: the target's cache is in f16, and experts and norms add up in another order


def final_norm(path: Path, states: np.ndarray) -> np.ndarray:
    """The RMS norm before the output head."""
    reader = gguf.GGUFReader(str(path))
    weights = {t.name: t.data for t in reader.tensors}
    weight = weights.get("output_norm.weight", weights.get("token_embd_norm.weight"))
    return states / np.sqrt((states**2).mean(axis=-1, keepdims=True) + 1e-5) * weight


@pytest.mark.parametrize("name", SETTINGS)
def test_layer_inputs_are_the_hidden_states_of_transformers(tmp_path, name):
    """But for the last: the output of the last layer is kept before the final norm, transformers' is after it."""
    path = write_architecture(tmp_path / f"{name}.gguf", name)
    expected = np.load(FIXTURE / "hidden_states.npz")[name]
    context = Context(path, Config(name))
    try:
        context.want_layer_inputs(range(N_LAYER + 1))
        context.decode(TOKENS)
        found = np.stack([context.layer_input(layer, len(TOKENS))[-N_KEPT:] for layer in range(N_LAYER + 1)])
    finally:
        context.close()
    found[N_LAYER] = final_norm(path, found[N_LAYER])
    for layer in range(N_LAYER + 1):
        assert np.abs(found[layer] - expected[layer]).max() < ROUNDING * np.abs(expected[layer]).max(), layer
