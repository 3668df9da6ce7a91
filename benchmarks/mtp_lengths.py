"""Acceptance lengths and speed of a target's own MTP layer: its chains, trees of the same depth, and llama.cpp's chains.

    python benchmarks/mtp_lengths.py --prompts HUMANEVAL.jsonl:8 --prompts GSM8K.jsonl:8 [--llama-server PATH]

Without --target it is the tiny Qwen3.5-shaped target with its layer inside. The ways of a depth take turns prompt by prompt. A
cell: tokens a round, the bonus token included, and tokens a second.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from llama_dflash import MTPDraft
from llama_dflash.bench.methods import LlamaServer, Method, Models, Ours
from llama_dflash.bench.prompts import read_prompts

ROOT = Path(__file__).resolve().parents[1]


def joined(folder: str) -> Path:
    sys.path.append(str(ROOT / "training"))
    from export_mtp import join

    path = Path(folder) / "tiny-qwen35-with-mtp.gguf"
    join(str(ROOT / "models/tiny-qwen35.gguf"), str(ROOT / "models/tiny-qwen35-mtp.gguf"), str(path))
    return path


def ways(args: argparse.Namespace, target: Path, depth: int) -> dict:
    models = Models(target, (MTPDraft(depth=depth),), args.threads, 1024, args.llama_server)
    made = {"plain": Ours(models, Method("plain")), f"chain of {depth}": Ours(models, Method("chain", depth))}
    for budget in args.trees:
        made[f"tree of {budget}, depth {depth}"] = Ours(models, Method("tree", budget))
    if args.llama_server:
        made["llama-server, plain"] = LlamaServer(models, Method("server-plain"))
        made[f"llama-server, chain of {depth}"] = LlamaServer(models, Method("server-chain", depth))
    return made


def cell(generations) -> str:
    speed = sum(len(g.tokens) - 1 for g in generations) / sum(g.seconds for g in generations)
    if generations[0].rounds is None:
        return f"{speed:.0f}"
    return f"{sum(g.round_tokens for g in generations) / sum(g.rounds for g in generations):.2f}, {speed:.0f}"


def texts(prompts) -> list:
    """Questions as the tiny target knows them."""
    return [f"Question: {text}\nAnswer:" for text in prompts.texts] if prompts.style == "chat" else prompts.texts


def measure(made: dict, sets, max_tokens: int) -> None:
    """Prints a row of every way."""
    found = {(name, s.name): [] for name in made for s in sets}
    for s in sets:
        for text in texts(s):
            prompt = made["plain"].llm.tokenize(text.encode(), add_bos=False, special=True)
            for name, way in made.items():
                generation = way.generate(prompt, max_tokens)
                if len(generation.tokens) > 4:
                    found[name, s.name].append(generation)
    for name, way in made.items():
        way.close()
        print("| " + " | ".join([name, *(cell(found[name, s.name]) for s in sets)]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path)
    parser.add_argument("--prompts", action="append", required=True, metavar="FILE.jsonl[:N]")
    parser.add_argument("--llama-server", type=Path)
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 3, 4, 5])
    parser.add_argument("--trees", type=int, nargs="+", default=[8, 15], help="their nodes")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    sets = [read_prompts(spec) for spec in args.prompts]
    with tempfile.TemporaryDirectory() as folder:
        target = args.target or joined(folder)
        print("| " + " | ".join(["", *(s.name for s in sets)]) + " |")
        print("| --- " * (1 + len(sets)) + "|")
        for depth in args.depths:
            measure(ways(args, target, depth), sets, args.max_tokens)


if __name__ == "__main__":
    main()
