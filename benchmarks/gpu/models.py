"""Writes the models that are measured: random weights of a real shape (random_models.py).

    python benchmarks/gpu/models.py --preset 27b --out DIR

target.gguf and drafter.gguf (BF16), and slice.gguf: the target's first layers alone, for a profile of single kernels.
What such models write means nothing; time and memory are real. The three are written at once, by a process each.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import shutil
import time
from pathlib import Path

from random_models import SHAPES, write_drafter, write_target

LAYERS_OF_SLICE = 8  # two of full attention


def write(preset: str, path: Path) -> None:
    """One of the three files. It gets its name when it is whole."""
    shape, partial = SHAPES[preset], path.with_suffix(".part")
    if path.stem == "drafter":
        write_drafter(partial, shape)
    else:
        n_layer = min(LAYERS_OF_SLICE, shape.n_layer) if path.stem == "slice" else shape.n_layer
        write_target(partial, dataclasses.replace(shape, n_layer=n_layer))
    partial.rename(path)


def missing(out: Path, preset: str) -> list[Path]:
    """The files that `out` lacks. Those of another preset are removed."""
    mark = out / "preset"
    if out.is_dir() and (not mark.is_file() or mark.read_text() != preset):
        for old in out.glob("*.gguf"):
            old.unlink()
    out.mkdir(parents=True, exist_ok=True)
    mark.write_text(preset)
    return [path for name in ("target", "drafter", "slice") if not (path := out / f"{name}.gguf").is_file()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=SHAPES, default="27b")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    started = time.perf_counter()
    paths = missing(args.out, args.preset)
    workers = [multiprocessing.Process(target=write, args=(args.preset, path)) for path in paths]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit(f"not all models were written; {shutil.disk_usage(args.out).free >> 30} GiB are free in {args.out}")
    for path in sorted(args.out.glob("*.gguf")):
        print(f"{path}: {path.stat().st_size / 2**30:.2f} GiB")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
