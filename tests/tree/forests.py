"""Several sequences of one context, in forests and otherwise, beside each of them decoded alone in a context of its own.

As a program (python forests.py MODEL ARCH UNIFIED SWA_FULL N_TOKENS SEED [N_GPU_LAYERS]) it demands equal bits, which takes the
batch-invariant mode: GGML_CPU_BATCH_INVARIANT=1 or GGML_CUDA_BATCH_INVARIANT=1 in its environment.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import llama_dflash  # noqa: F401  before llama_cpp
import llama_cpp
import numpy as np

from context import Config, Context

N_SEQ = 8
ALPHABET = 300


@dataclass
class Tree:
    """One sequence's part of a forest: `nodes` are indices in the batch, `parents` go by place among them."""

    nodes: list[int]
    parents: list[int]
    tokens: list[int]

    def path_to(self, place: int) -> list[int]:
        """Places from the root on."""
        path = [place]
        while self.parents[path[0]] >= 0:
            path.insert(0, self.parents[path[0]])
        return path

    def leaf_paths(self) -> list[list[int]]:
        return [self.path_to(i) for i in range(len(self.nodes)) if i not in self.parents]


def mix(trees: dict[int, Tree], rng: np.random.Generator) -> tuple[list[int], list[int], list[int]]:
    """Lays the trees out in one batch, their nodes in any order in which each tree keeps its own.
    Returns the batch's tokens, parents and sequences."""
    seqs = [seq for seq, tree in trees.items() for _ in tree.parents]
    if rng.random() < 0.7:
        rng.shuffle(seqs)
    for tree in trees.values():
        tree.nodes.clear()
    tokens, parents = [], []
    for i, seq in enumerate(seqs):
        tree = trees[seq]
        place = len(tree.nodes)
        tree.nodes.append(i)
        tokens.append(tree.tokens[place])
        parents.append(tree.nodes[tree.parents[place]] if place > 0 else -1)
    return tokens, parents, seqs


class Lanes:
    """`shared` holds all sequences; alone[seq] a copy of each, decoded token by token."""

    def __init__(self, model: Path, config: Config, n_ctx: int, seed: int, tolerance: float, in_order: bool = False):
        """tolerance: of a logit; 0 demands equal bits. in_order: nothing is done that upstream would place a sequence's
        tokens in another order for than the order of their positions (in which a sum over them would round)."""
        self.shared = Context(model, replace(config, n_seq=N_SEQ), n_ctx=n_ctx)
        per_seq = n_ctx if config.unified else n_ctx // N_SEQ
        self.most = min(per_seq - 64, 10**9 if in_order else 300)  # tokens of a sequence
        # a state saved where there are several streams is loaded only where there are as many
        one = replace(config, n_seq=1 if config.unified else N_SEQ)
        self.spare = [Context(model, one, n_ctx=n_ctx) for _ in range(N_SEQ)]
        self.alone: dict[int, Context] = {}
        self.pending: dict[int, tuple[Tree, np.ndarray]] = {}
        self.rng = np.random.default_rng(seed)
        self.tolerance, self.in_order, self.n_ubatch = tolerance, in_order, config.n_ubatch
        self.n_tokens, self.did = 0, {}

    def close(self) -> None:
        for c in [self.shared, *self.spare, *self.alone.values()]:
            c.close()

    def count(self, what: str) -> None:
        self.did[what] = self.did.get(what, 0) + 1

    def same(self, found: np.ndarray, expected: np.ndarray, what: str) -> None:
        off = np.abs(found - expected).max()
        assert np.isfinite(found).all() and off <= self.tolerance, f"{what}: off by {off:.3g} after {self.n_tokens} tokens"

    def tokens(self, n: int) -> list[int]:
        return self.rng.integers(0, ALPHABET, n).tolist()

    # what is done to a sequence that is not pending

    def add(self, seq: int) -> None:
        self.alone[seq] = self.spare.pop()
        self.alone[seq].clear()

    def decode(self, seq: int, n: int) -> None:
        """One token, or a prompt of several."""
        if seq not in self.alone:
            self.add(seq)
        tokens = self.tokens(n)
        found = self.shared.decode(tokens, seq)
        self.same(found, self.alone[seq].decode_each(tokens), f"{n} tokens of sequence {seq}")
        self.n_tokens += n
        self.count("prompt" if n > 1 else "token")

    def remove(self, seq: int) -> None:
        assert llama_cpp.llama_memory_seq_rm(self.shared.memory, seq, -1, -1)
        assert self.shared.n_past(seq) == 0
        self.spare.append(self.alone.pop(seq))
        self.count("remove")

    def copy(self, src: int, dst: int) -> None:
        if dst in self.alone:
            self.remove(dst)
        llama_cpp.llama_memory_seq_cp(self.shared.memory, src, dst, -1, -1)
        self.add(dst)
        self.alone[dst].load(self.alone[src].save())
        self.count("copy")
        self.decode(dst, 1)  # upstream copies a stream before the next decode, whatever has been loaded there by then

    def save_and_load(self, src: int, dst: int) -> None:
        state = self.shared.save(src)
        if dst in self.alone:
            self.remove(dst)
        self.shared.put(state, dst)
        self.add(dst)
        self.alone[dst].load(self.alone[src].save())
        self.count("load")

    def idle(self) -> list[int]:
        return [seq for seq in self.alone if seq not in self.pending]

    def anything(self) -> None:
        """Something that is done to sequences that are not pending."""
        idle, free = self.idle(), [seq for seq in range(N_SEQ) if seq not in self.alone]
        what = self.rng.choice(["token", "prompt", "new", "remove", "copy", "load"], p=[0.35, 0.15, 0.2, 0.1, 0.1, 0.1])
        if what == "new" and free:
            self.decode(int(self.rng.choice(free)), int(self.rng.integers(1, 40)))
        if not idle:
            return
        src = int(self.rng.choice(idle))
        others = free if self.in_order else [*free, *(seq for seq in idle if seq != src)]
        if what == "token":
            self.decode(src, 1)
        elif what == "prompt":
            self.decode(src, int(self.rng.integers(2, 20)))
        elif what == "remove" and not self.in_order:
            self.remove(src)
        elif what in ("copy", "load") and others:
            dst = int(self.rng.choice(others))
            (self.copy if what == "copy" else self.save_and_load)(src, dst)

    # forests

    def random_tree(self, most: int) -> Tree:
        n = 1 if self.rng.random() < 0.25 else int(self.rng.integers(1, most + 1))
        reach = int(self.rng.integers(1, 6))
        parents = [-1] + [int(self.rng.integers(max(0, i - reach), i)) for i in range(1, n)]
        return Tree([], parents, self.tokens(n))

    def forest(self) -> None:
        idle = self.idle()
        if not idle:
            return
        lanes = self.rng.permutation(idle)[: int(self.rng.integers(1, len(idle) + 1))].tolist()
        trees = {seq: self.random_tree(min(16, self.n_ubatch // len(lanes))) for seq in lanes}
        tokens, parents, seqs = mix(trees, self.rng)
        logits = self.shared.tree_logits(tokens, parents, seqs)
        for seq, tree in trees.items():
            assert self.shared.pending(seq)
            self.pending[seq] = tree, logits[tree.nodes]
        self.count(f"forest of {len(lanes)}")

    def end(self, seq: int) -> None:
        """Commits a random path, or nothing, of a pending tree."""
        tree, logits = self.pending.pop(seq)
        if self.rng.random() < 0.15:
            assert self.shared.discard(seq) == 0, self.shared.error()
            return self.count("discard")
        path = tree.path_to(int(self.rng.integers(len(tree.parents))))
        assert self.shared.commit([tree.nodes[i] for i in path], seq) == 0, self.shared.error()
        expected = self.alone[seq].decode_each([tree.tokens[i] for i in path])
        self.same(logits[path], expected, f"{len(path)} nodes of sequence {seq}")
        self.n_tokens += len(path)
        self.count("commit")

    def round(self) -> None:
        for seq in self.idle():
            if self.shared.n_past(seq) > self.most:
                self.remove(seq)
        while len(self.alone) < 2:
            self.decode(next(seq for seq in range(N_SEQ) if seq not in self.alone), int(self.rng.integers(1, 30)))
        self.forest()
        while self.pending:
            if self.rng.random() < 0.3:
                self.anything()
            if self.rng.random() < 0.1:
                self.forest()  # of those that are not pending
            self.end(int(self.rng.choice(list(self.pending))))
        if self.rng.random() < 0.3:
            self.anything()

    def run(self, n_tokens: int) -> None:
        while self.n_tokens < n_tokens:
            self.round()
        for seq, alone in self.alone.items():
            assert self.shared.n_past(seq) == alone.n_past()
            if self.tolerance == 0:
                expected = alone.save()
                alone.load(self.shared.save(seq))  # there it is sequence 0, too
                assert alone.save() == expected, f"the memory of sequence {seq}"


if __name__ == "__main__":
    model, arch, unified, swa_full, n_tokens, seed, n_gpu_layers = [*sys.argv[1:], "0"][:7]
    unified, n_tokens = unified == "True", int(n_tokens)
    config = Config(arch, True, n_ubatch=64, unified=unified, swa_full=swa_full == "True", n_gpu_layers=int(n_gpu_layers))
    lanes = Lanes(Path(model), config, n_tokens + 1024 if unified else N_SEQ * 512, int(seed), 0.0, in_order=unified)
    lanes.run(n_tokens)
    print("equal", lanes.n_tokens, lanes.did)
