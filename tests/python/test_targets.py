"""Drafting on targets of many architectures: the text is plain decoding's, or the target is refused with the reason."""

import itertools
import warnings
from pathlib import Path
from typing import NamedTuple

import drafter_models
import pytest
from architectures import (
    ARCHITECTURES,
    INDEXED,
    N_LAYER,
    RECURRENT,
    WINDOW,
    WITH_TREES,
    WITHOUT_LAYER_INPUTS,
    write_architecture,
)
from same_text import TOLERANCE, assert_same_text, measured_tolerance

from llama_dflash import DFlashDraft

PROMPT = list(b"the digits, and more than a window of them: 0123")
assert len(PROMPT) > 2 * WINDOW


# How much of a hidden state says "a favourite follows": enough that the layers' noise does not drown it.
SCALES = dict.fromkeys(["qwen2moe", "gemma2", "cohere2"], 80.0)
SEEDS = {"bloom": 1}  # with seed 0 it repeats the prompt's last token whatever the favourites are
WINDOWED = [name for name, arch in ARCHITECTURES.items() if "attention.sliding_window" in arch.keys and name in WITH_TREES]


class Pair(NamedTuple):
    target: Path
    drafter: Path


def write_pair(folder, name, **drafter) -> Pair:
    target = write_architecture(folder / f"{name}.gguf", name, SEEDS.get(name, 0))
    drafter_models.make_predictable(target, SCALES.get(name, 40.0))
    return Pair(target, drafter_models.write_drafter(folder / f"{name}-dflash.gguf", target, **drafter))


def greedy(llm, n):
    return list(itertools.islice(llm.generate(PROMPT, temp=0.0), n))


def assert_drafts(load, pair, **settings):
    """Up to 12 nodes are verified at once, some of them accepted, and the text is plain decoding's."""
    plain, llm = load(pair, logits_all=True, **settings), load(pair, DFlashDraft(pair.drafter, budget=12), **settings)
    a, b = greedy(plain, 60), greedy(llm, 60)
    stats = llm.speculative_stats
    assert stats.nodes > stats.rounds and stats.accepted > 5, "the drafter guesses, or this test shows nothing"
    tolerance = max(TOLERANCE, measured_tolerance(plain, [*PROMPT, *a]))
    assert_same_text(plain, PROMPT, a, b, tolerance)


@pytest.mark.parametrize("name", WITH_TREES)
def test_trees_on_every_architecture_write_plain_decodings_text(tmp_path, load, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "chains are verified instead"
        assert_drafts(load, write_pair(tmp_path, name, layers=(1, 2, N_LAYER), n_layer=1))


@pytest.mark.parametrize("name", WINDOWED)
def test_trees_in_a_cache_that_keeps_a_window_only_write_plain_decodings_text(tmp_path, load, name):
    """llama-cpp-python keeps every token of a sliding-window layer unless it is told otherwise."""
    assert_drafts(load, write_pair(tmp_path, name, n_layer=1), swa_full=False, n_batch=32, n_ubatch=32)


@pytest.mark.parametrize("name", INDEXED)
def test_chains_on_targets_with_an_index_beside_their_cache_write_plain_decodings_text(tmp_path, load, name):
    with pytest.warns(RuntimeWarning, match="can't hold draft trees: chains are verified instead"):
        assert_drafts(load, write_pair(tmp_path, name, layers=(1, 2, N_LAYER), n_layer=1))


@pytest.mark.parametrize("name", RECURRENT)
def test_targets_with_other_recurrent_layers_are_refused_with_the_reason(tmp_path, load, name):
    pair = write_pair(tmp_path, name)
    with pytest.raises(ValueError, match="only Gated DeltaNet layers can.* be cut back .* Use draft_model=None"):
        load(pair, DFlashDraft(pair.drafter))


@pytest.mark.parametrize("name", WITHOUT_LAYER_INPUTS)
@pytest.mark.parametrize("layer", [1, N_LAYER])
def test_targets_without_one_hidden_state_between_layers_are_refused_with_the_reason(tmp_path, load, name, layer):
    target = write_architecture(tmp_path / f"{name}.gguf", name)
    drafter = drafter_models.write_drafter(tmp_path / "d.gguf", target, layers=(layer,))
    with pytest.raises(ValueError, match=f'the input of layer {layer} .* "{name}": between its layers passes .*=None'):
        load(Pair(target, drafter), DFlashDraft(drafter))
