"""Tree decode, commit and discard against the oracle: decoding one token after another on a copy of the memory."""

from __future__ import annotations

import functools

import llama_dflash  # noqa: F401  before llama_cpp
import llama_cpp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from context import Config, Context
from models import GPU_SIZES, HYBRIDS, write_hybrid, write_target
from trees import leaves, path_to, token_trees

Q8, Q4 = llama_cpp.GGML_TYPE_Q8_0, llama_cpp.GGML_TYPE_Q4_0
CONFIGS = [
    *[Config(arch, flash) for arch in ("llama", "qwen3", "gemma3") for flash in (False, True)],
    *[Config(arch, True, kv) for arch in ("llama", "gemma3") for kv in (Q8, Q4)],
    Config("llama", False, Q8),
    Config("gemma3", True, swa_full=True),
    *[Config(arch, flash) for arch in HYBRIDS for flash in (False, True)],
    Config("qwen35", True, Q8),
]
ON_GPU = [
    *[Config("llama", flash, n_gpu_layers=-1) for flash in (False, True)],
    *[Config(arch, True, n_gpu_layers=-1) for arch in ("gemma3", *HYBRIDS)],
    *[Config(arch, True, Q4, n_gpu_layers=-1) for arch in ("llama", "qwen35")],
]
PROMPT = [(7 * i * i + 3 * i) % 300 for i in range(40)]  # longer than gemma3's window


class Pair:
    """The context under test and the plain one, on the same model, and the rounding between them."""

    def __init__(self, path, config: Config):
        self.tree = Context(path, config)
        self.plain = Context(path, config)
        self.config = config
        self.tolerance = self.measure_rounding()

    def start(self, n_prompt: int) -> bytes:
        """Both contexts hold the same prompt. Returns its memory."""
        if self.tree.pending():
            self.tree.discard()  # an assertion ended the example before
        self.plain.clear()
        self.plain.decode_each(PROMPT[:n_prompt])
        state = self.plain.save()
        self.tree.load(state)
        return state

    def measure_rounding(self) -> float:
        """How far one forward over a chain is from single tokens, again and again: nothing that a tree is to blame for.

        A quantised cache now and then rounds a value the other way, which stays in the memory: rare and large against
        the rest, so the longest run of these tests is measured, and many times over.
        """
        worst = 0.0
        rng = np.random.default_rng(5)
        for _ in range(6 if self.config.kv == llama_cpp.GGML_TYPE_F16 else 24):
            self.start(10)
            while self.plain.n_past() < 150:
                tokens = rng.integers(0, 300, rng.integers(2, 65)).tolist()
                worst = max(worst, np.abs(self.tree.decode(tokens) - self.plain.decode_each(tokens)).max())
        return 4 * worst + 1e-5


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets")

    @functools.lru_cache(maxsize=None)
    def get(config: Config) -> Pair:
        on_gpu = config.n_gpu_layers != 0
        path = folder / f"{config.arch}{'-gpu' if on_gpu else ''}.gguf"
        if not path.exists():
            sizes = GPU_SIZES.get(config.arch, dict(head_dim=64)) if on_gpu else {}
            if config.arch in HYBRIDS:
                write_hybrid(path, config.arch, n_expert=2, **sizes)  # both are used: rounding can't choose another expert
            else:
                write_target(path, config.arch, **sizes)
        return Pair(path, config)

    return get


def every_config(function):
    function = settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],  # shrinking a hundred rounds takes minutes and shows little
        suppress_health_check=list(HealthCheck),
    )(function)
    configs = [*CONFIGS, *(pytest.param(config, marks=pytest.mark.gpu) for config in ON_GPU)]
    return pytest.mark.parametrize("config", configs, ids=str)(function)


def assert_close(a: np.ndarray, b: np.ndarray, tolerance: float) -> None:
    assert np.isfinite(a).all() and np.isfinite(b).all()
    assert np.abs(a - b).max() <= tolerance, f"off by {np.abs(a - b).max():.3g}, measured rounding {tolerance:.3g}"


@every_config
@given(tree=token_trees(), n_prompt=st.integers(1, 40))
def test_every_node_has_the_logits_of_decoding_its_root_path(pair, config, tree, n_prompt):
    tokens, parents = tree
    p = pair(config)
    state = p.start(n_prompt)
    logits = p.tree.tree_logits(tokens, parents)
    assert p.tree.discard() == 0
    for leaf in leaves(parents):
        path = path_to(leaf, parents)
        p.plain.load(state)
        assert_close(logits[path], p.plain.decode_each([tokens[i] for i in path]), p.tolerance)


@every_config
@given(tree=token_trees(max_nodes=40), n_prompt=st.integers(1, 40), data=st.data())
def test_after_commit_the_memory_is_that_of_decoding_the_path(pair, config, tree, n_prompt, data):
    tokens, parents = tree
    p = pair(config)
    p.start(n_prompt)
    path = path_to(data.draw(st.integers(0, len(parents) - 1)), parents)
    p.tree.tree_logits(tokens, parents)
    assert p.tree.commit(path) == 0
    p.plain.decode_each([tokens[i] for i in path])
    assert p.tree.n_past() == p.plain.n_past() == n_prompt + len(path)
    assert len(p.tree.save()) == len(p.plain.save())
    more = [(11 * i + len(path)) % 300 for i in range(32)]
    assert_close(p.tree.decode_each(more), p.plain.decode_each(more), p.tolerance)


@every_config
@given(tree=token_trees(max_nodes=40), n_prompt=st.integers(1, 40))
def test_after_discard_it_is_as_if_nothing_had_been_decoded(pair, config, tree, n_prompt):
    tokens, parents = tree
    p = pair(config)
    state = p.start(n_prompt)
    p.tree.tree_logits(tokens, parents)
    assert p.tree.discard() == 0
    if config.arch != "gemma3" or config.swa_full:
        assert p.tree.save() == state  # a window cache may have reused cells that no later token can see
    more = [(13 * i + 5) % 300 for i in range(16)]
    assert_close(p.tree.decode_each(more), p.plain.decode_each(more), p.tolerance)


@every_config
@given(data=st.data())
def test_many_rounds_in_a_row_stay_equal_to_plain_decoding(pair, config, data):
    p = pair(config)
    p.start(10)
    while p.plain.n_past() < 150:
        tokens, parents = data.draw(token_trees(max_nodes=24))
        path = path_to(data.draw(st.integers(0, len(parents) - 1)), parents)
        logits = p.tree.tree_logits(tokens, parents)
        if data.draw(st.booleans()):
            p.tree.discard()
            continue
        p.tree.commit(path)
        assert_close(logits[path], p.plain.decode_each([tokens[i] for i in path]), p.tolerance)


def test_a_full_context_refuses_the_tree_and_keeps_the_memory(pair):
    p = pair(CONFIGS[0])
    p.start(1)
    rng = np.random.default_rng(1)
    for _ in range(5):
        p.tree.decode(rng.integers(0, 300, 100).tolist())
    state, room = p.tree.save(), 512 - p.tree.n_past()
    assert p.tree.tree_decode([1] * (room + 1), [-1] + [0] * room) == 1
    assert not p.tree.pending() and p.tree.save() == state
    p.tree.tree_logits([1] * room, [-1] + [0] * (room - 1))
    assert p.tree.commit([0, 5]) == 0 and p.tree.n_past() == 512 - room + 2
