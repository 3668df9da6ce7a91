"""What a forward over a few rows costs on one thread, in milliseconds of processor time: the least of many.

    GGML_CPU_ROWS=0 OMP_WAIT_POLICY=passive python benchmarks/forward_rows.py model.gguf    # llama.cpp's own products
    GGML_CPU_ROWS=1 OMP_WAIT_POLICY=passive python benchmarks/forward_rows.py model.gguf    # interleaved weights

Processor time of one thread stands also where other programs use the machine.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time

import llama_dflash  # noqa: F401  makes llama_cpp run over the patched library
import llama_cpp


@llama_cpp.llama_log_callback
def quiet(level, text, user_data):
    pass


def context_of(path: str):
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise SystemExit(f"{path} does not load")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = 1024, 1, 1
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    return llama_cpp.llama_init_from_model(model, params)


def decode(ctx, n: int) -> float:
    """Seconds of a forward over n tokens with all their logits."""
    tokens, logits = (ctypes.c_int32 * n)(*range(5, 5 + n)), (ctypes.c_int8 * n)(*[1] * n)
    batch = llama_cpp.llama_batch(n_tokens=n, token=tokens, logits=logits)
    start = time.process_time()
    assert llama_cpp.llama_decode(ctx, batch) == 0
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rows", default="1,4,8,16")
    parser.add_argument("--seconds", type=float, default=7)
    args = parser.parse_args()
    ctx = context_of(args.model)
    decode(ctx, 128)  # the prompt
    best: dict[int, float] = {}
    end = time.time() + args.seconds
    while time.time() < end:
        for n in map(int, args.rows.split(",")):
            best[n] = min(best.get(n, 1e9), decode(ctx, n))
            llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(ctx), 0, 128, -1)
    print(json.dumps({n: round(seconds * 1e3, 2) for n, seconds in best.items()}))


if __name__ == "__main__":
    main()
