"""The CPU's products, forwards and decoding on this library and on an unpatched one, in one run.

    benchmarks/build_llama_server.sh                       # the unpatched library and its llama-server, in build/llama-server
    python benchmarks/cpu_bars.py --stock build/llama-server/bin --target smollm2-Q8_0.gguf --target smollm2-Q4_K_M.gguf \
        --draft-model models/smollm2-135m-instruct-dflash.gguf --prompts humaneval_dev.jsonl:4 --prompts edit:4 --out bars.json

Writes bars.json and prints its tables. Products: vendor/ggml-tree-ops/tests/test-rows.cpp, compiled over each library; stock's
number is that of its best form of the weights. Decoding: benchmarks/bench.py. `--only products` or `--only decoding` runs a part.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPS = ROOT / "vendor" / "ggml-tree-ops"
TYPES = "q8_0 q4_0 q4_1 q5_0 q4_K q5_K q6_K iq4_xs mxfp4 f16"
ROWS = [1, 4, 8, 16, 64, 512]


def our_library() -> Path:
    return Path(importlib.util.find_spec("llama_dflash").origin).parent / "lib"


def compile_over(library: Path, program: Path) -> None:
    header = next(iter(ROOT.glob("build/*/src/*/vendor/llama.cpp/ggml/include/ggml.h")), None)
    if header is None:
        sys.exit("cpu_bars.py: no build of this checkout, which has ggml's headers, in build/")
    command = ["c++", "-std=c++17", "-O2", f"-I{OPS}", f"-I{header.parent}", f"-I{header.parents[1] / 'src'}"]
    command += [str(OPS / "tests" / "test-rows.cpp"), f"-L{library}", "-lggml", "-lggml-base", f"-Wl,-rpath,{library}"]
    subprocess.run([*command, "-lpthread", "-o", str(program)], check=True)


def times(program: Path, type_: str, args: argparse.Namespace) -> dict[str, list[float]]:
    """GB/s of weights by rows, for each form of the weights that the library has."""
    command = [str(program), "time", str(args.threads), type_, "--rows", ",".join(map(str, ROWS))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [line.split() for line in done.stdout.splitlines()[1:]]
    return {words[1]: [float(x) for x in words[2:]] for words in lines}


def products(args: argparse.Namespace) -> dict:
    """By type: stock's best and ours. The two libraries take turns, type by type."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        programs = {"stock": Path(folder, "stock"), "ours": Path(folder, "ours")}
        compile_over(args.stock, programs["stock"])
        compile_over(our_library(), programs["ours"])
        for type_ in args.types.split():
            stock = times(programs["stock"], type_, args)
            best = max(stock, key=lambda form: stock[form][0])
            forms = {"stock": [max(column) for column in zip(*stock.values())], "stock's form for one row": best}
            found[type_] = {**forms, "ours": times(programs["ours"], type_, args)["CPU_ROWS"]}
    return found


def decoding(args: argparse.Namespace) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "bench.json")
        command = [sys.executable, str(ROOT / "benchmarks" / "bench.py"), "--draft-model", args.draft_model, "--out", str(out)]
        for option, values in (("--target", args.target), ("--prompts", args.prompts)):
            for value in values:
                command += [option, value]
        command += ["--llama-server", str(args.stock / "llama-server"), "--server-lengths", "3", "--chain-budgets", ""]
        command += ["--tree-budgets", "auto", "--threads", str(args.threads), "--max-tokens", str(args.max_tokens)]
        command += ["--block", args.block, "--minutes", str(args.minutes)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        return json.loads(out.read_text())["runs"]


def ratio(numbers: list[float]) -> str:
    """4, 8 and 16 rows in single rows' time."""
    by_rows = dict(zip(ROWS, numbers))
    return " / ".join(f"{by_rows[1] / by_rows[n]:.1f}" for n in (4, 8, 16))


def table_of_products(found: dict) -> str:
    head = "| type | " + " | ".join(f"{n} row{'s' * (n > 1)}" for n in ROWS) + " | 4 / 8 / 16 rows in single rows' time: stock | ours |"
    lines = [head, "| --- |" + " ---: |" * len(ROWS) + " --- | --- |"]
    for type_, x in found.items():
        cells = [f"{ours:.3g} ({ours / stock:.2f})" for ours, stock in zip(x["ours"], x["stock"])]
        lines.append(f"| {type_} | " + " | ".join(cells) + f" | {ratio(x['stock'])} | {ratio(x['ours'])} |")
    return "\n".join(lines)


def speed(runs: list[dict], target: str, method: str) -> float | None:
    mine = [r for r in runs if r["target"] == target and r["method"] == method]
    return sum(r["decoded"] for r in mine) / sum(r["seconds"] for r in mine) if mine else None


def table_of_decoding(runs: list[dict]) -> str:
    methods = list(dict.fromkeys(r["method"] for r in runs))
    lines = ["| tokens per second (times stock's plain) | " + " | ".join(methods) + " |", "| --- |" + " ---: |" * len(methods)]
    for target in dict.fromkeys(r["target"] for r in runs):
        base = speed(runs, target, "server-plain") or speed(runs, target, "plain")
        cells = [f"{s:.1f} ({s / base:.2f})" if (s := speed(runs, target, m)) else "–" for m in methods]
        lines.append(f"| {target} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stock", type=Path, required=True, help="folder with an unpatched libggml.so and llama-server")
    parser.add_argument("--target", action="append", default=[])
    parser.add_argument("--draft-model", help="for --target")
    parser.add_argument("--prompts", action="append", default=[])
    parser.add_argument("--block", choices=["whole", "short"], default="short", help="what a DFlash drafter denoises (short)")
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", choices=["products", "decoding"])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.stock = args.stock.resolve()
    found = {"threads": args.threads, "rows": ROWS}
    if args.only != "decoding":
        found["products"] = products(args)
        print(f"GB/s of weights (times stock's best), {args.threads} threads\n\n{table_of_products(found['products'])}\n", flush=True)
    if args.target and args.only != "products":
        found["decoding"] = decoding(args)
        print(table_of_decoding(found["decoding"]))
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
