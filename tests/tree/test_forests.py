"""Forests: trees of several sequences in one forward, against each sequence decoded alone."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import llama_dflash  # noqa: F401  before llama_cpp
import llama_cpp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from context import Config, Context, _lib, logged
from forests import N_SEQ, Lanes, Tree, mix
from models import GPU_SIZES, HYBRIDS, write_hybrid, write_target
from trees import token_trees

_lib.llama_tree_set_top.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_lib.llama_tree_get_top_ith.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_lib.llama_tree_get_top_ith.restype = ctypes.POINTER(ctypes.c_float)

CLOSE = 0.05  # what rounding may do to a logit; a wrong token before makes more than twice of it
ARCHS = ("llama", "gemma3", *HYBRIDS)
SHAPES = [
    Config(arch, flash, n_ubatch=96, unified=unified)
    for arch in ARCHS
    for unified in (True, False)
    for flash in ((True, False) if arch in ("llama", "qwen35") else (True,))
]
ON_GPU = [
    *[Config(arch, True, n_ubatch=96, unified=unified, n_gpu_layers=-1) for arch in ARCHS for unified in (True, False)],
    *[Config(arch, True, llama_cpp.GGML_TYPE_Q4_0, n_ubatch=96, n_gpu_layers=-1) for arch in ("llama", "qwen35")],
]
BUSH = [-1, 0, 0, 1, 1, 2, 3, 3, 6]


def on_gpu_too(configs: list[Config]) -> list:
    return [*configs, *(pytest.param(config, marks=pytest.mark.gpu) for config in ON_GPU)]


def name(config: Config) -> str:
    return f"{config}-{'unified' if config.unified else 'streams'}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets")

    def get(arch: str, n_gpu_layers: int = 0) -> Path:
        path = folder / f"{arch}{'-gpu' if n_gpu_layers else ''}.gguf"
        if not path.exists():
            sizes = GPU_SIZES.get(arch, dict(head_dim=64)) if n_gpu_layers else {}
            write_hybrid(path, arch, n_layer=4, n_expert=2, **sizes) if arch in HYBRIDS else write_target(path, arch, **sizes)
        return path

    return get


@pytest.fixture(scope="module")
def contexts(model):
    """contexts(config): a context of N_SEQ sequences, empty, and one for each of them alone."""
    made: dict[str, tuple[Context, Context]] = {}

    def get(config: Config) -> tuple[Context, Context]:
        if name(config) not in made:
            many = Config(**{**vars(config), "n_seq": N_SEQ})
            one = many if not config.unified else config  # which loads its states
            path = model(config.arch, config.n_gpu_layers)
            made[name(config)] = tuple(Context(path, c, n_ctx=4096) for c in (many, one))
        shared, alone = made[name(config)]
        for seq in range(N_SEQ):
            if shared.pending(seq):
                shared.discard(seq)
        shared.clear()
        return shared, alone

    yield get
    for pair in made.values():
        for c in pair:
            c.close()


@st.composite
def forests(draw, max_nodes: int = 96) -> dict[int, Tree]:
    """Trees of 1 to 8 sequences, laid out later by mix()."""
    seqs = draw(st.lists(st.integers(0, N_SEQ - 1), min_size=1, max_size=N_SEQ, unique=True))
    forest = {}
    for seq in seqs:
        tokens, parents = draw(token_trees(max_nodes=max_nodes // len(seqs)))
        forest[seq] = Tree([], parents, tokens)
    return forest


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = CLOSE) -> None:
    assert np.isfinite(found).all() and np.abs(found - expected).max() <= tolerance


@pytest.fixture(scope="module")
def tolerance(contexts):
    """tolerance(config): what rounding may do to a logit. On a GPU it is measured, without trees: other kernels compute a row."""
    measured: dict[str, float] = {}

    def get(config: Config) -> float:
        if config.n_gpu_layers == 0:
            return CLOSE
        if name(config) not in measured:
            shared, alone = contexts(config)
            measured[name(config)] = 4 * rounding(shared, alone) + 1e-5
            shared.clear()
        return measured[name(config)]

    return get


def rounding(one: Context, other: Context) -> float:
    """How far a forward over several tokens is from single ones, at most, over and over."""
    rng, worst = np.random.default_rng(5), 0.0
    for _ in range(12):
        one.clear()
        other.clear()
        while one.n_past() < 100:
            tokens = rng.integers(0, 300, rng.integers(2, 65)).tolist()
            worst = max(worst, np.abs(one.decode(tokens) - other.decode_each(tokens)).max())
    return worst


@pytest.mark.parametrize("config", on_gpu_too(SHAPES), ids=name)
@settings(max_examples=6, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(forest=forests(), seed=st.integers(0, 1000), data=st.data())
def test_every_node_has_the_logits_of_its_sequence_decoded_alone(contexts, tolerance, config, forest, seed, data):
    most = tolerance(config)
    shared, alone = contexts(config)
    rng = np.random.default_rng(seed)
    for seq in rng.permutation(N_SEQ).tolist():
        if n_prompt := int(rng.integers(0, 30)):
            shared.decode(rng.integers(0, 300, n_prompt).tolist(), seq)
    states = {seq: shared.save(seq) for seq in forest}
    lengths = {seq: shared.n_past(seq) for seq in range(N_SEQ)}

    def restart(seq: int) -> None:
        alone.load(states[seq]) if lengths[seq] else alone.clear()

    tokens, parents, seqs = mix(forest, rng)
    logits = shared.tree_logits(tokens, parents, seqs)
    for seq, tree in forest.items():
        for path in tree.leaf_paths():
            restart(seq)
            close(logits[[tree.nodes[i] for i in path]], alone.decode_each([tree.tokens[i] for i in path]), most)

    more = [(11 * i + 4) % 300 for i in range(8)]
    for seq in rng.permutation(list(forest)).tolist():
        tree = forest[seq]
        path = tree.path_to(data.draw(st.integers(0, len(tree.parents) - 1)))
        if data.draw(st.booleans()):
            assert shared.commit([tree.nodes[i] for i in path], seq) == 0
        else:
            path = []
            assert shared.discard(seq) == 0
        restart(seq)
        alone.decode_each([tree.tokens[i] for i in path])
        assert shared.n_past(seq) == alone.n_past() == lengths[seq] + len(path)
        close(shared.decode_each(more, seq), alone.decode_each(more), most)
    assert all(shared.n_past(seq) == lengths[seq] for seq in range(N_SEQ) if seq not in forest)


@pytest.mark.parametrize("config", on_gpu_too(SHAPES), ids=name)
def test_forests_between_anything_else_stay_each_sequence_alone(model, tolerance, config):
    path = model(config.arch, config.n_gpu_layers)
    lanes = Lanes(path, config, N_SEQ * 512, seed=3, tolerance=tolerance(config))
    try:
        lanes.run(500)
        assert {"commit", "discard", "token", "prompt", "remove", "copy", "load"} <= lanes.did.keys()
        assert {f"forest of {n}" for n in (1, 2, 4)} <= lanes.did.keys()
    finally:
        lanes.close()


BIT_FOR_BIT = [
    *[(arch, unified, False) for arch in ("llama", *HYBRIDS) for unified in (True, False)],
    ("gemma3", True, True),
    ("gemma3", False, True),
    ("gemma3", False, False),
]


@pytest.mark.parametrize("arch, unified, swa_full", BIT_FOR_BIT)
def test_thousands_of_tokens_stay_equal_to_the_last_bit(model, arch, unified, swa_full, tmp_path, request):
    """No drift, in the batch-invariant mode. Where sequences share a cache, those that are removed leave holes, which later
    tokens fill, and sums over a sequence then go another way: there this is not done. (--forest-tokens=10000 for more.)"""
    n_tokens = request.config.getoption("--forest-tokens")
    arguments = [str(model(arch)), arch, str(unified), str(swa_full), str(n_tokens), "7"]
    run = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "forests.py"), *arguments],
        cwd=tmp_path,  # not where llama_dflash/ has no libraries
        env={**os.environ, "GGML_CPU_BATCH_INVARIANT": "1"},
        capture_output=True,
        text=True,
        timeout=60 + n_tokens // 5,
    )
    assert run.stdout.startswith("equal"), run.stderr[-2000:]


# what is refused while some sequences are pending, and what is not


@pytest.fixture(params=["llama", "qwen35"])
def two(request, contexts):
    """Sequences 0 and 1 of three tokens each; sequence 1 is pending."""
    shared, _ = contexts(Config(request.param, True, n_ubatch=96))
    for seq in (0, 1):
        shared.decode_each([1, 2, 3], seq)
    shared.tree_logits([5, 6], [-1, 0], 1)
    return shared


def test_calls_that_touch_a_pending_sequence_fail_and_harm_nothing(two):
    c, m, lib = two.ctx, two.memory, llama_cpp
    buffer = (ctypes.c_uint8 * (1 << 20))()
    batch, _keep = two.batch([9, 9], seq=[0, 1])
    assert lib.llama_decode(c, batch) < 0
    assert two.tree_decode([9, 9], [-1, -1], seq=[0, 1]) == -1
    assert lib.llama_memory_seq_rm(m, 1, -1, -1) is False
    assert lib.llama_memory_seq_rm(m, -1, -1, -1) is False
    assert lib.llama_memory_seq_pos_max(m, 1) == -1
    lib.llama_memory_seq_cp(m, 1, 2, -1, -1)
    lib.llama_memory_seq_cp(m, 0, 1, -1, -1)
    lib.llama_memory_seq_add(m, 1, 0, -1, 4)
    lib.llama_memory_seq_keep(m, 0)
    lib.llama_memory_clear(m, True)
    assert lib.llama_state_seq_get_size(c, 1) == 0
    assert lib.llama_state_seq_set_data(c, buffer, len(buffer), 1) == 0
    assert lib.llama_state_get_size(c) == 0
    assert two.tree_reserve(50, 3) == -1
    assert "a draft tree of 2 nodes is pending on sequence 1" in two.error()
    assert two.n_past(0) == 3 and two.n_past(2) == 0
    assert two.pending(1) and not two.pending(0) and two.pending()
    assert two.commit([0, 1], 1) == 0 and two.n_past(1) == 5


def test_other_sequences_are_free_meanwhile(two):
    two.decode([7, 8], 0)
    state = two.save(0)
    llama_cpp.llama_memory_seq_cp(two.memory, 0, 2, -1, -1)
    assert two.n_past(2) == 5
    assert llama_cpp.llama_memory_seq_rm(two.memory, 0, -1, -1)
    two.put(state, 3)
    two.tree_logits([4, 4, 4], [-1, 0, -1], [2, 2, 3])
    assert two.pending(2) and two.pending(3)
    assert two.discard(3) == 0 and two.commit([0, 1], 1) == 0 and two.commit([0], 2) == 0
    assert [two.n_past(seq) for seq in range(4)] == [0, 5, 6, 5]
    assert not two.pending()


def test_a_path_has_to_be_of_the_sequences_own_tree(two):
    two.tree_logits([4, 4, 4], [-1, 0, 0], 0)
    assert two.commit([0, 2], 1) == -1 and "no child" in two.error()
    assert two.commit([0], 2) == -1 and "no tree is pending on sequence 2" in two.error()
    assert two.discard(2) == -1
    assert two.commit([0, 2], 0) == 0 and two.commit([0, 1], 1) == 0


def test_a_forest_that_finds_no_room_leaves_everything_as_before(contexts):
    shared, _ = contexts(Config("llama", True, n_ubatch=96, unified=False))
    for _ in range(5):
        shared.decode([1] * 96, 0)
    room = 512 - shared.n_past(0)
    shared.decode([2, 3], 1)
    before = shared.save(0), shared.save(1)
    n = room + 1
    assert shared.tree_decode([1] * (n + 2), [*range(-1, n - 1), -1, n], seq=[0] * n + [1] * 2) == 1
    assert not shared.pending() and (shared.save(0), shared.save(1)) == before


def test_an_aborted_forest_leaves_everything_as_before(contexts):
    shared, _ = contexts(Config("qwen35", True, n_ubatch=96))
    for seq in (0, 1):
        shared.decode_each([1, 2, 3], seq)
    shared.tree_logits([5], [-1], 1)
    before = shared.save(0)
    calls = []

    @llama_cpp.ggml_abort_callback
    def abort_later(_):
        calls.append(1)
        return len(calls) > 20

    llama_cpp.llama_set_abort_callback(shared.ctx, abort_later, None)
    assert shared.tree_decode([5, 6, 7], [-1, 0, -1], seq=[0, 0, 2]) == 2
    llama_cpp.llama_set_abort_callback(shared.ctx, llama_cpp.ggml_abort_callback(0), None)
    assert shared.save(0) == before and shared.n_past(2) == 0
    assert shared.pending(1) and not shared.pending(0) and not shared.pending(2)
    assert shared.commit([0], 1) == 0 and shared.n_past(1) == 4


# what else goes by index in the batch


@pytest.mark.parametrize("arch", ["llama", "qwen35"])
@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("n_gpu_layers", [0, pytest.param(-1, marks=pytest.mark.gpu)])
def test_layer_inputs_and_best_outputs_go_by_index_in_the_batch(contexts, tolerance, arch, unified, n_gpu_layers):
    config = Config(arch, True, n_ubatch=96, unified=unified, n_gpu_layers=n_gpu_layers)
    most = tolerance(config)
    shared, alone = contexts(config)
    forest = {seq: Tree([], BUSH[:n], [20, 33, 47, 51, 20, 33, 98, 7, 61][:n]) for seq, n in ((3, 9), (1, 1), (6, 5))}
    layers = range(1, 3)
    for c in (shared, alone):
        c.want_layer_inputs(layers)
    for seq in forest:
        shared.decode([seq, 2, 3], seq)
    tokens, parents, seqs = mix(forest, np.random.default_rng(2))
    _lib.llama_tree_set_top(shared.ctx, 4)
    try:
        assert shared.tree_decode(tokens, parents, seq=seqs) == 0
        best = [_lib.llama_tree_get_top_ith(shared.ctx, i)[4:8] for i in range(len(tokens))]
    finally:
        _lib.llama_tree_set_top(shared.ctx, 0)
    inputs = {layer: shared.layer_input(layer, len(tokens)) for layer in layers}
    logits = np.stack([shared.logits(i) for i in range(len(tokens))])
    assert [[int(b) for b in row] for row in best] == np.argsort(-logits, axis=1)[:, :4].tolist()
    for seq, tree in forest.items():
        for path in tree.leaf_paths():
            alone.clear()
            alone.decode_each([seq, 2, 3])
            for i in path:
                alone.decode([tree.tokens[i]])
                for layer in layers:
                    close(inputs[layer][tree.nodes[i]], alone.layer_input(layer, 1)[0], most)


def n_reused(context: Context) -> int:
    return llama_cpp.llama_perf_context(context.ctx).n_reused


@pytest.mark.parametrize("arch", ["llama", "qwen35"])
@pytest.mark.parametrize("n_gpu_layers", [0, pytest.param(-1, marks=pytest.mark.gpu)])
def test_a_graph_is_used_again_for_other_trees_of_other_sequences(contexts, arch, n_gpu_layers):
    shared, _ = contexts(Config(arch, True, n_ubatch=96, n_gpu_layers=n_gpu_layers))
    for seq in range(N_SEQ):
        shared.decode([seq, 5, 7], seq)
    rng = np.random.default_rng(4)
    before = 0
    for n_rounds in range(12):
        lanes = rng.permutation(N_SEQ)[:3].tolist()
        forest = {}
        for seq, n in zip(lanes, (9, 5, 2), strict=True):
            parents = [-1] + [int(rng.integers(0, i)) for i in range(1, n)]
            forest[seq] = Tree([], parents, rng.integers(0, 300, n).tolist())
        tokens, parents, seqs = mix(forest, rng)
        shared.tree_logits(tokens, parents, seqs)
        for seq, tree in forest.items():
            assert shared.commit([tree.nodes[0]], seq) == 0
        if n_rounds == 0:
            before = n_reused(shared)
    assert n_reused(shared) - before == 11


def test_room_for_the_nodes_of_all_lanes_is_made_once_and_logged(model):
    shared = Context(model("qwen35"), Config("qwen35", True, n_ubatch=96, n_seq=N_SEQ), n_ctx=1024)
    try:
        with logged() as lines:
            assert shared.tree_reserve(40, 4) == 0
        assert "forests of up to 40 nodes" in "".join(lines)
        with logged() as lines:
            for seq in range(N_SEQ):
                shared.decode([1, 2, 3], seq)
            shared.tree_logits([5] * 40, [-1] * 8 + list(range(8)) * 4, list(range(8)) * 5)
            for seq in range(N_SEQ):
                assert shared.commit([seq, seq + 8], seq) == 0
        assert "more for the inputs" not in "".join(lines)
        shared.tree_logits([5, 5], [-1, 0], 0)
        with logged() as lines:  # the first's inputs are needed for its commit
            shared.tree_logits([5, 5], [-1, 0], 1)
        assert "MiB more for the inputs of 2 nodes" in "".join(lines) and "other trees are pending" in "".join(lines)
    finally:
        shared.close()
