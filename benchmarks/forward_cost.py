"""Milliseconds of one forward over n tokens, all with logits, as verifying a tree of n nodes has them.

    python benchmarks/forward_cost.py TARGET.gguf --threads 2
    LLAMA_CPP_LIB_PATH=DIR python benchmarks/forward_cost.py ...   # over another libllama, for instance an unpatched one

Medians over rounds that go through all sizes in turn, so that a machine's drift hits all alike.
"""

import argparse
import ctypes
import statistics
import time

import llama_cpp
import numpy as np

SIZES = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)


def load(path: str, threads: int):
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = 512
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    return llama_cpp.llama_init_from_model(model, params)


def forward(ctx, n: int, seed: int) -> float:
    """Seconds of one forward over n random tokens after the first 100; they are removed again."""
    tokens = (ctypes.c_int32 * n)(*np.random.default_rng(seed).integers(0, 3000, n).tolist())
    outputs = (ctypes.c_int8 * n)(*[1] * n)
    started = time.perf_counter()
    if llama_cpp.llama_decode(ctx, llama_cpp.llama_batch(n_tokens=n, token=tokens, logits=outputs)) != 0:
        raise RuntimeError(f"the forward over {n} tokens failed")
    llama_cpp.llama_synchronize(ctx)
    seconds = time.perf_counter() - started
    llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(ctx), 0, 100, -1)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    a = parser.parse_args()
    ctx = load(a.target, a.threads)
    forward(ctx, 100, 0)
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(ctx), False)
    tokens = (ctypes.c_int32 * 100)(*range(100, 200))
    llama_cpp.llama_decode(ctx, llama_cpp.llama_batch(n_tokens=100, token=tokens))
    times = {n: [] for n in SIZES}
    for r in range(a.rounds):
        for n in SIZES:
            times[n].append(forward(ctx, n, r))
    print("| " + " | ".join(map(str, SIZES)) + " |")
    print("| " + " | ".join(f"{1000 * statistics.median(times[n]):.1f}" for n in SIZES) + " |")


if __name__ == "__main__":
    main()
