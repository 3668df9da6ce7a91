"""One forward between two marks, for a profiler; and the sums per kernel of what the profiler (ncu) wrote.

    ncu --profile-from-start off --metrics "$(python benchmarks/gpu/kernels.py metrics)" --csv --page raw … \\
        python benchmarks/gpu/kernels.py run --target slice.gguf --kind verify --n 23
    python benchmarks/gpu/kernels.py sum --csv verify.csv --kind verify --n 23 --out results.json

A model of a few layers of the real shape has the same kernels in the same proportion, but for the output head.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
from pathlib import Path
from typing import Any, Iterator

import results

TIME, BYTES, BANDWIDTH = "gpu__time_duration.sum", "dram__bytes.sum", "dram__throughput.avg.pct_of_peak_sustained_elapsed"
METRICS = [TIME, BYTES, BANDWIDTH]
KINDS = ["plain", "batch", "verify"]


@contextlib.contextmanager
def profiled() -> Iterator[None]:
    """What the profiler is to look at. Nothing special without a CUDA driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        yield
        return
    driver.cuProfilerStart()
    yield
    driver.cuProfilerStop()


def run(args: argparse.Namespace) -> None:
    from target import Settings, Target, log_above_debug  # here: `sum` needs no library
    import llama_cpp

    log_above_debug()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = args.n_gpu_layers
    model = llama_cpp.llama_model_load_from_file(str(args.target).encode(), params)
    if not model:
        raise SystemExit(f"{args.target} does not load")
    target = Target(model, Settings(args.context + 1024, n_threads=args.threads, n_gpu_layers=args.n_gpu_layers))
    target.fill(args.context)
    target.set_top(1 if args.kind == "verify" else 0)
    forward = {
        "plain": lambda: target.batch(1, all_outputs=True),
        "batch": lambda: target.batch(args.n, all_outputs=True),
        "verify": lambda: target.verify(args.n),
    }[args.kind]
    for _ in range(3):
        forward()
    with profiled():
        forward()
    target.close()
    llama_cpp.llama_model_free(model)


def rows(text: str) -> Iterator[dict[str, str]]:
    """The rows of `ncu --csv --page raw`, after what else it printed; the row of units is left out."""
    lines = text.splitlines()
    head = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if head is None:
        raise SystemExit("ncu wrote no table: it profiled no kernel. Its log says why")
    return (row for row in csv.DictReader(lines[head:]) if row["ID"])


def short(signature: str) -> str:
    """A kernel's name with its template's arguments and without those of the call."""
    depth = 0
    for i, character in enumerate(signature):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "(" and depth == 0 and i > 0:
            signature = signature[:i]
            break
    return signature.removeprefix("void ")


def number(text: str) -> float:
    return float(text.replace(",", "") or 0)


def sums(text: str) -> list[dict[str, Any]]:
    """Per kernel: launches, microseconds, megabytes of device memory, and bandwidth as a percentage of the peak."""
    kernels: dict[str, dict[str, Any]] = {}
    for row in rows(text):
        name = short(row["Kernel Name"])
        entry = kernels.setdefault(name, {"kernel": name, "launches": 0, "us": 0.0, "mb": 0.0, "percent_us": 0.0})
        us = number(row[TIME]) / 1e3  # --print-units base: nanoseconds and bytes
        entry["launches"] += 1
        entry["us"] += us
        entry["mb"] += number(row[BYTES]) / 1e6
        entry["percent_us"] += us * number(row[BANDWIDTH])
    for entry in kernels.values():
        entry["bandwidth_percent"] = entry.pop("percent_us") / max(entry["us"], 1e-9)
    return sorted(kernels.values(), key=lambda entry: -entry["us"])


def summarise(args: argparse.Namespace) -> None:
    name = args.kind if args.kind == "plain" else f"{args.kind} {args.n}"
    results.put(args.out, "kernels", name, {"layers": args.layers, "kernels": sums(args.csv.read_text(errors="replace"))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for command, function in (("run", run), ("sum", summarise)):
        sub = commands.add_parser(command)
        sub.set_defaults(function=function)
        sub.add_argument("--kind", choices=KINDS, required=True)
        sub.add_argument("--n", type=int, default=23)
    commands.add_parser("metrics", help="what ncu is to measure").set_defaults(function=lambda _: print(",".join(METRICS)))
    of_run, of_sum = commands.choices["run"], commands.choices["sum"]
    of_run.add_argument("--target", type=Path, required=True)
    of_run.add_argument("--context", type=int, default=512)
    of_run.add_argument("--threads", type=int, default=8)
    of_run.add_argument("--n-gpu-layers", type=int, default=-1)
    of_sum.add_argument("--csv", type=Path, required=True)
    of_sum.add_argument("--layers", type=int, default=8)
    of_sum.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
