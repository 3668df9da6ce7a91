"""Peak memory of one process for each way of decoding one prompt: ours, and an unpatched llama-server.

    python benchmarks/memory.py --target M.gguf --draft-model D.gguf --budget 22 --llama-server PATH

Two numbers a process, in MiB, from the operating system (/proc, so on Linux): the peak of everything in memory, which
includes the model's file as far as it is mapped, and what the process has allocated by the end of the text.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

from llama_dflash import DFlashDraft
from llama_dflash.bench.methods import LlamaServer, Method, Models, load
from llama_dflash.bench.tables import markdown

PROMPT = list(range(100, 164))  # what is written does not matter here


def memory_of(pid: int) -> Dict[str, float]:
    """{"peak": …, "allocated": …} of a process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = {name: int(re.search(rf"^{key}:\s+(\d+) kB", status, re.M)[1]) for name, key in
              (("peak", "VmHWM"), ("allocated", "RssAnon"))}
    return {name: kib / 1024 for name, kib in fields.items()}


def measure(models: Models, method: Method, n_tokens: int) -> Dict[str, float]:
    program = load(models, method)
    try:
        program.generate(PROMPT, n_tokens)
        return memory_of(program.pid if isinstance(program, LlamaServer) else os.getpid())
    finally:
        program.close()


def methods_of(args: argparse.Namespace) -> List[Method]:
    methods = [Method("plain"), Method("chain", args.chain), Method("tree", args.budget)]
    if args.llama_server:
        methods += [Method("server-plain"), Method("server-chain", args.chain)]
    return methods


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--target", required=True, type=Path)
    add("--draft-model", required=True, type=Path)
    add("--llama-server", type=Path)
    add("--budget", type=int, default=22, help="nodes of a tree (%(default)s)")
    add("--chain", type=int, default=15, help="tokens of a chain (%(default)s)")
    add("--tokens", type=int, default=64)
    add("--ctx", type=int, default=1024)
    add("--threads", type=int, default=os.cpu_count())
    add("--only", type=int, help=argparse.SUPPRESS)  # the method that a process of its own is to measure
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    models = Models(args.target, (DFlashDraft(args.draft_model),), args.threads, args.ctx, args.llama_server)
    methods = methods_of(args)
    if args.only is not None:
        print(*measure(models, methods[args.only], args.tokens).values())
        return
    rows = []
    for i, method in enumerate(methods):
        command = [sys.executable, *sys.argv, "--only", str(i)]
        peak, allocated = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        rows.append([method.name, f"{float(peak):.0f}", f"{float(allocated):.0f}"])
    print(markdown(["MiB", "peak", "allocated"], rows))


if __name__ == "__main__":
    main()
