"""Forward passes a second by number of threads, alone and beside processes that keep processors busy.

    python benchmarks/shared_processors.py model.gguf --threads 1,2 --busy 0,1,2

A busy process spins on a processor of its own (the last one first). Numbers of threads take turns, so that a change of the
machine meets all of them. Wall time: what a user sees.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

from forward_rows import context_of, decode  # first: it makes llama_cpp run over the patched library

import llama_cpp

TURN = 0.5  # seconds


def forwards_per_second(ctx, threads: int, rows: int, seconds: float) -> float:
    """Rows are of the size of a verification's, so they count as single tokens do for n_threads."""
    llama_cpp.llama_set_n_threads(ctx, threads, threads)
    n, start = 0, time.time()
    while time.time() < start + seconds:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(ctx), True)
        decode(ctx, rows)
        n += 1
    return n / (time.time() - start)


def spinners(n: int) -> list[subprocess.Popen]:
    processors = sorted(os.sched_getaffinity(0), reverse=True)
    code = "import os; os.sched_setaffinity(0, {%d})\nwhile True: pass"
    return [subprocess.Popen([sys.executable, "-c", code % processors[i % len(processors)]]) for i in range(n)]


def table(ctx, threads: list[int], rows: int, busy: int, seconds: float) -> dict[int, float]:
    others = spinners(busy)
    try:
        time.sleep(0.3)
        turns = max(1, round(seconds / (TURN * len(threads))))
        sums = dict.fromkeys(threads, 0.0)
        for _ in range(turns):
            for t in threads:
                sums[t] += forwards_per_second(ctx, t, rows, TURN)
        return {t: round(total / turns, 1) for t, total in sums.items()}
    finally:
        for process in others:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rows", default="1,8")
    parser.add_argument("--busy", default="0,1,2")
    parser.add_argument("--seconds", type=float, default=4, help="a line of the table")
    args = parser.parse_args()
    ctx = context_of(args.model)
    threads = [int(t) for t in args.threads.split(",")]
    for busy in map(int, args.busy.split(",")):
        for rows in map(int, args.rows.split(",")):
            found = table(ctx, threads, rows, busy, args.seconds)
            print(json.dumps({"busy processes": busy, "rows": rows, "forwards a second by threads": found}), flush=True)


if __name__ == "__main__":
    main()
