"""Random rounds of one sequence beside plain decoding, to the last bit of every logit.

python rounds_bit_for_bit.py MODEL N_TOKENS KV_TYPE N_GPU_LAYERS, in the batch-invariant mode of the backend: GGML_CPU_BATCH_INVARIANT=1
or GGML_CUDA_BATCH_INVARIANT=1.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import llama_dflash  # noqa: F401  before llama_cpp
import llama_cpp
import numpy as np

from context import Config, Context
from forests import ALPHABET
from trees import path_to

N_CTX = 1024
MOST_NODES = 64


class Rounds:
    def __init__(self, model: Path, kv: int, n_gpu_layers: int) -> None:
        config = Config("any", True, kv, n_gpu_layers=n_gpu_layers)
        self.tree, self.plain = (Context(model, config, n_ctx=N_CTX) for _ in range(2))
        self.rng = np.random.default_rng(11)
        self.did: dict[str, int] = {}

    def tokens(self, n: int) -> list[int]:
        return self.rng.integers(0, ALPHABET, n).tolist()

    def same(self, found: np.ndarray, tokens: list[int], what: str) -> None:
        expected = self.plain.decode_each(tokens)
        assert np.array_equal(found, expected), f"{what} at {self.plain.n_past()}: off by {np.abs(found - expected).max():.3g}"
        self.did[what] = self.did.get(what, 0) + len(tokens)

    def restart(self) -> None:
        assert self.tree.save() == self.plain.save(), f"the memory of {self.tree.n_past()} tokens"
        self.tree.clear()
        self.plain.clear()
        prompt = self.tokens(int(self.rng.integers(1, 128)))
        self.same(self.tree.decode(prompt), prompt, "prompt")

    def round(self) -> None:
        what = self.rng.choice(["tree", "chain", "batch"], p=[0.6, 0.2, 0.2])
        n, reach = int(self.rng.integers(1, MOST_NODES + 1)), 1 if what == "chain" else int(self.rng.integers(2, 8))
        tokens = self.tokens(n)
        if what == "batch":
            return self.same(self.tree.decode(tokens), tokens, "batch")
        parents = [-1, *(int(self.rng.integers(max(0, i - reach), i)) for i in range(1, n))]
        logits = self.tree.tree_logits(tokens, parents)
        if self.rng.random() < 0.15:
            assert self.tree.discard() == 0
            return
        path = path_to(int(self.rng.integers(n)), parents)
        assert self.tree.commit(path) == 0, self.tree.error()
        self.same(logits[path], [tokens[i] for i in path], what)

    def run(self, n_tokens: int) -> None:
        self.restart()
        while sum(self.did.values()) < n_tokens:
            if self.tree.n_past() > N_CTX - 2 * MOST_NODES:
                self.restart()
            self.round()
        assert self.tree.save() == self.plain.save()


if __name__ == "__main__":
    model, n_tokens, kv, n_gpu_layers = sys.argv[1:]
    rounds = Rounds(Path(model), getattr(llama_cpp, f"GGML_TYPE_{kv}"), int(n_gpu_layers))
    rounds.run(int(n_tokens))
    print("equal", rounds.did)
