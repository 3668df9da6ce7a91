"""Writes the models that are measured: random weights of a real shape, by the tool that --synth names.

    python benchmarks/gpu/models.py --synth FILE --preset 27b --out DIR

target.gguf and drafter.gguf (BF16), and slice.gguf: the target's first layers alone, for a profile of single kernels.
What such models write means nothing; time and memory are real. The three are written at once, by a process each.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import shutil
import time
from pathlib import Path

import gguf

LAYERS_OF_SLICE = 8  # two of full attention
BLOCK_SIZE = 16


class Writer(gguf.GGUFWriter):
    """With what the tool uses of llama.cpp's own gguf-py, which the released package lacks."""

    def add_block_size(self, value: int) -> None:
        self.add_uint32(f"{self.arch}.block_size", value)

    def add_target_layers(self, value: list[int]) -> None:
        self.add_array(f"{self.arch}.target_layers", value)


def load_tool(path: Path):
    gguf.GGUFWriter = Writer
    spec = importlib.util.spec_from_file_location("synth_gguf", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def write_target(tool, preset: str, path: str, n_layers: int | None = None) -> None:
    types = gguf.GGMLQuantizationType
    shape = dict(tool.PRESETS[preset], **({} if n_layers is None else {"L": n_layers}))
    many, few = (types.Q8_0, types.Q8_0) if preset == "tiny" else (types.Q6_K, types.Q4_K)  # as Q4_K_M has them
    tool.qwen35(path, shape, many, few)


def write_drafter(tool, preset: str, path: str) -> None:
    tool.dflash(path, tool.DFLASH[preset], tool.PRESETS[preset]["V"], gguf.GGMLQuantizationType.BF16, BLOCK_SIZE)


def write(synth: Path, preset: str, path: Path) -> None:
    """One of the three files. It gets its name when it is whole."""
    tool, partial = load_tool(synth), path.with_suffix(".part")
    if path.stem == "drafter":
        write_drafter(tool, preset, str(partial))
    else:
        write_target(tool, preset, str(partial), LAYERS_OF_SLICE if path.stem == "slice" else None)
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
    parser.add_argument("--synth", type=Path, required=True, help="the Python file that has the shapes and writes them")
    parser.add_argument("--preset", default="27b")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if not args.synth.is_file():
        parser.error(f"--synth: no such file: {args.synth}")
    started = time.perf_counter()
    paths = missing(args.out, args.preset)
    workers = [multiprocessing.Process(target=write, args=(args.synth, args.preset, path)) for path in paths]
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
