"""What is special about hybrid memory: a recurrent state that is one cell, is never cut back and is shared by copies."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import llama_dflash  # noqa: F401  before llama_cpp
import llama_cpp
import numpy as np
import pytest

from context import Config, Context, _lib, logged
from models import HYBRIDS, write_hybrid, write_recurrent

BUSH = [-1, 0, 0, 1, 1, 2, 3, 3, 6]  # parents
PATH = [0, 1, 3, 6, 8]
TOKENS = [20, 33, 47, 51, 20, 33, 98, 7, 61]
MORE = [(11 * i + 4) % 300 for i in range(24)]


@pytest.fixture(scope="module", params=HYBRIDS)
def model(request, tmp_path_factory):
    return write_hybrid(tmp_path_factory.mktemp("hybrid") / f"{request.param}.gguf", request.param)


@pytest.fixture
def contexts(model):
    """Two contexts on the same model: one for trees, one for plain decoding."""
    pair = [Context(model, Config("hybrid", True, n_seq=3, n_ubatch=64)) for _ in range(2)]
    yield pair
    for c in pair:
        c.close()


def same(a: np.ndarray, b: np.ndarray) -> None:
    """Equal up to the rounding of a batched forward on float32 weights; another state is off by 0.1 and more."""
    assert np.isfinite(a).all() and np.abs(a - b).max() < 1e-2


def path_tokens(path=PATH):
    return [TOKENS[i] for i in path]


def test_another_state_gives_other_logits(contexts):
    """The tests below compare logits: they must tell a wrong state from a right one."""
    tree, plain = contexts
    tree.decode_each(path_tokens() + MORE)
    plain.decode_each([TOKENS[1]] + path_tokens()[1:] + MORE)  # another first token
    assert np.abs(tree.decode([5]) - plain.decode([5])).max() > 0.1


def test_the_first_decode_of_a_context_may_be_a_tree(contexts):
    tree, plain = contexts
    logits = tree.tree_logits(TOKENS, BUSH)
    assert tree.commit(PATH) == 0 and tree.n_past() == len(PATH)
    same(logits[PATH], plain.decode_each(path_tokens()))
    same(tree.decode_each(MORE), plain.decode_each(MORE))


def test_a_discarded_first_tree_leaves_an_empty_memory(contexts):
    tree, plain = contexts
    tree.tree_logits(TOKENS, BUSH)
    assert tree.discard() == 0 and tree.n_past() == 0
    same(tree.decode_each(MORE), plain.decode_each(MORE))


def test_trees_of_any_size_follow_one_another(contexts):
    tree, plain = contexts
    rng = np.random.default_rng(3)
    for n in (3, 1, 64, 2, 17, 64, 33):
        tokens = rng.integers(0, 300, n).tolist()
        parents = [-1] + [int(rng.integers(max(0, i - 4), i)) for i in range(1, n)]
        path = [n - 1]
        while parents[path[0]] >= 0:
            path.insert(0, parents[path[0]])
        logits = tree.tree_logits(tokens, parents)
        assert tree.commit(path) == 0
        same(logits[path], plain.decode_each([tokens[i] for i in path]))
    same(tree.decode_each(MORE), plain.decode_each(MORE))


def shared_by_two_sequences(contexts):
    """Both contexts, in which sequence 1 has the state of sequence 0."""
    for c in contexts:
        c.decode_each(MORE)
        llama_cpp.llama_memory_seq_cp(c.memory, 0, 1, -1, -1)
    return contexts


def test_sequences_that_share_a_state_part_when_one_of_them_commits(contexts):
    tree, plain = shared_by_two_sequences(contexts)
    logits = tree.tree_logits(TOKENS, BUSH)
    assert tree.commit(PATH) == 0
    same(logits[PATH], plain.decode_each(path_tokens()))
    assert tree.n_past(1) == len(MORE)
    same(tree.decode_each(MORE, seq=1), plain.decode_each(MORE, seq=1))
    same(tree.decode_each(MORE), plain.decode_each(MORE))


def test_sequences_that_share_a_state_still_do_after_a_discard(contexts):
    tree, plain = shared_by_two_sequences(contexts)
    before = tree.save(0), tree.save(1)
    tree.tree_logits(TOKENS, BUSH)
    assert tree.discard() == 0
    assert (tree.save(0), tree.save(1)) == before
    for seq in (1, 0):
        same(tree.decode_each(MORE, seq=seq), plain.decode_each(MORE, seq=seq))


def test_a_tree_of_another_sequence_leaves_the_first_alone(contexts):
    tree, plain = contexts
    for c in contexts:
        c.decode_each(MORE)
        c.decode_each([3, 1, 4], seq=2)
    before = tree.save(0)
    assert tree.tree_decode(TOKENS, BUSH, seq=2) == 0
    assert tree.commit(PATH, seq=2) == 0
    plain.decode_each(path_tokens(), seq=2)
    assert tree.save(0) == before
    for seq in (0, 2):
        same(tree.decode_each(MORE, seq=seq), plain.decode_each(MORE, seq=seq))


def test_a_saved_state_travels_between_rounds(contexts):
    tree, plain = contexts
    tree.decode_each(MORE)
    tree.tree_logits(TOKENS, BUSH)
    assert tree.commit(PATH) == 0
    state = tree.save()
    plain.load(state)
    tree.decode_each([1, 2, 3])
    tree.load(state)
    logits = tree.tree_logits(TOKENS, BUSH)
    assert tree.commit(PATH) == 0
    same(logits[PATH], plain.decode_each(path_tokens()))


def test_removing_tokens_is_refused_or_done_as_upstream_does(contexts):
    for c in contexts:
        c.decode_each(MORE)
    tree, plain = contexts
    tree.tree_logits(TOKENS, BUSH)
    tree.commit(PATH)
    plain.decode_each(path_tokens())
    state, n_past = tree.save(), tree.n_past()
    for p0, possible in ((n_past - 1, False), (1, False), (n_past, True)):
        for c in contexts:
            assert llama_cpp.llama_memory_seq_rm(c.memory, 0, p0, -1) is possible
        assert tree.n_past() == plain.n_past() == n_past
        assert tree.save() == state
    for c in contexts:
        assert llama_cpp.llama_memory_seq_rm(c.memory, 0, -1, -1)
        assert c.n_past() == 0
    same(tree.decode_each(MORE), plain.decode_each(MORE))


def test_context_shift_behaves_as_upstreams(contexts):
    tree, plain = contexts
    can_shift = [llama_cpp.llama_memory_can_shift(c.memory) for c in contexts]
    assert can_shift[0] == can_shift[1]
    if not can_shift[0]:
        return  # M-RoPE: upstream does not shift these
    for c in contexts:
        c.decode_each(MORE)
    tree.tree_logits(TOKENS, BUSH)
    tree.commit(PATH)
    plain.decode_each(path_tokens())
    for c in contexts:
        llama_cpp.llama_memory_seq_add(c.memory, 0, 0, -1, 7)
        assert c.n_past() == len(MORE) + len(PATH) + 7
    same(tree.decode_each([9, 8, 7]), plain.decode_each([9, 8, 7]))


def test_room_for_trees_is_made_and_logged_at_once(contexts):
    tree, _ = contexts
    with logged() as lines:
        assert tree.tree_reserve(33, 15) == 0
    said = re.search(r"up to 33 nodes: ([\d.]+) MiB .* n_rs_seq = 15: ([\d.]+) MiB", "".join(lines))
    assert said, lines
    n_recurrent, heads, size = 6, 4, 32
    snapshots = 15 * n_recurrent * 4 * (heads * size * size + 3 * (2 * 2 + heads) * size)
    assert float(said[2]) == pytest.approx(snapshots / 2**20, abs=0.01)
    assert float(said[1]) < float(said[2])
    assert tree.tree_decode(TOKENS, BUSH) == 0
    assert tree.tree_reserve(40, 15) == -1 and "pending" in tree.error()


@pytest.mark.parametrize("n_nodes, depth", [(0, 0), (4, 4), (4, -1)])
def test_nonsense_is_not_reserved(contexts, n_nodes, depth):
    assert contexts[0].tree_reserve(n_nodes, depth) == -1
    assert f"{n_nodes} nodes of depth {depth}" in contexts[0].error()


def test_a_context_with_snapshots_is_told_to_do_without(model):
    if model.stem == "qwen3next":
        pytest.skip("upstream keeps no snapshots of this architecture, whatever n_rs_seq is")
    context = Context(model, Config("hybrid", True, n_rs_seq=4))
    try:
        context.decode_each([1, 2, 3])
        assert context.tree_decode([5, 6], [-1, 0]) == -1
        assert "n_rs_seq = 0" in context.error()
        assert not context.pending()
    finally:
        context.close()


def test_an_aborted_forward_leaves_everything_as_before(contexts):
    tree, plain = contexts
    for c in contexts:
        c.decode_each(MORE)
    state = tree.save()
    calls = []

    @llama_cpp.ggml_abort_callback
    def abort_later(_):
        calls.append(1)
        return len(calls) > 40

    llama_cpp.llama_set_abort_callback(tree.ctx, abort_later, None)
    assert tree.tree_decode(TOKENS, BUSH) == 2
    assert not tree.pending() and tree.save() == state

    calls.clear()
    llama_cpp.llama_set_abort_callback(tree.ctx, llama_cpp.ggml_abort_callback(0), None)
    tree.tree_logits(TOKENS, BUSH)
    llama_cpp.llama_set_abort_callback(tree.ctx, abort_later, None)
    calls.extend([1] * 50)
    assert tree.commit(PATH) == 0, "a commit is not aborted half way"
    assert tree.tree_decode(TOKENS, BUSH) == 2, "the callback is in force again"
    llama_cpp.llama_set_abort_callback(tree.ctx, llama_cpp.ggml_abort_callback(0), None)
    plain.decode_each(path_tokens())
    same(tree.decode_each(MORE), plain.decode_each(MORE))


def test_a_full_context_refuses_the_tree_and_keeps_the_memory(contexts):
    tree, plain = contexts
    rng = np.random.default_rng(1)
    for _ in range(8):
        tokens = rng.integers(0, 300, 60).tolist()
        for c in contexts:
            c.decode(tokens)
    state, room = tree.save(), 512 - 480
    assert tree.tree_decode([1] * (room + 1), [-1] + [0] * room) == 1
    assert not tree.pending() and tree.save() == state
    tree.tree_logits([1] * room, [-1] + [0] * (room - 1))
    assert tree.commit([0, 5]) == 0
    plain.decode_each([1, 1])
    same(tree.decode_each(MORE), plain.decode_each(MORE))


def test_models_without_tree_graphs_say_so(tmp_path):
    context = Context(write_recurrent(tmp_path / "mamba.gguf"), Config("mamba"))
    try:
        assert not _lib.llama_tree_supported(context.ctx)
        assert context.tree_decode([5, 6], [-1, 0]) == -1
        assert "can't hold a tree" in context.error()
    finally:
        context.close()


DRIFT = """
import sys
sys.path[:0] = sys.argv[3:]
import numpy as np
from context import Config, Context

n_tokens = int(sys.argv[2])
tree, plain = (Context(sys.argv[1], Config("hybrid", True, n_ubatch=32), n_ctx=n_tokens + 256) for _ in range(2))
rng = np.random.default_rng(11)
n_rounds = 0
while tree.n_past() < n_tokens:
    n = int(rng.integers(1, 24))
    tokens = rng.integers(0, 300, n).tolist()
    parents = [-1] + [int(rng.integers(max(0, i - 3), i)) for i in range(1, n)]
    path = [int(rng.integers(0, n))]
    while parents[path[0]] >= 0:
        path.insert(0, parents[path[0]])
    logits = tree.tree_logits(tokens, parents)
    if rng.random() < 0.1:
        assert tree.discard() == 0
        continue
    assert tree.commit(path) == 0
    expected = plain.decode_each([tokens[i] for i in path])
    assert np.array_equal(logits[path], expected), (tree.n_past(), np.abs(logits[path] - expected).max())
    n_rounds += 1
assert tree.save() == plain.save()
print("equal", tree.n_past(), n_rounds)
"""


@pytest.mark.parametrize("arch, n_tokens", [("qwen35", 10000), ("qwen35moe", 2000), ("qwen3next", 2000)])
def test_random_rounds_stay_plain_decodings_to_the_last_bit(arch, n_tokens, tmp_path):
    """No drift: in the batch-invariant mode, in which a forward over many tokens rounds as one over each."""
    model = write_hybrid(tmp_path / "hybrid.gguf", arch, n_layer=4, n_head=1, n_head_kv=1)  # little attention: it is quicker
    run = subprocess.run(
        [sys.executable, "-c", DRIFT, str(model), str(n_tokens), str(Path(__file__).parent), str(Path(__file__).parents[1])],
        cwd=tmp_path,  # python -c imports from the current folder
        env={**os.environ, "GGML_CPU_BATCH_INVARIANT": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.stdout.startswith("equal"), run.stderr[-2000:]
    assert int(run.stdout.split()[1]) >= n_tokens
