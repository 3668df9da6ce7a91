"""Acceptance lengths and speed of a target's own MTP layer: its chains, and trees of the same depth; llama.cpp's chains beside them.

    python benchmarks/mtp_lengths.py --prompts HUMANEVAL.jsonl:8 --prompts GSM8K.jsonl:8 [--llama-server PATH]

Without --target it is the tiny Qwen3.5-shaped target with its layer inside. A depth's chain, trees and llama-server's chain take
turns prompt by prompt. AL: tokens a round, the bonus token included; then tokens a second, of plain decoding without a number.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from llama_dflash import Llama, MTPDraft
from llama_dflash.bench.methods import Generation, LlamaServer, Method, Models, Ours
from llama_dflash.bench.prompts import read_prompts

ROOT = Path(__file__).resolve().parents[1]


def joined(folder: str) -> Path:
    sys.path.append(str(ROOT / "training"))
    from export_mtp import join

    path = Path(folder) / "tiny-qwen35-with-mtp.gguf"
    join(str(ROOT / "models/tiny-qwen35.gguf"), str(ROOT / "models/tiny-qwen35-mtp.gguf"), str(path))
    return path


class OurMTP(Ours):
    """The bench's way of decoding, with an MTP layer."""

    def __init__(self, models: Models, draft: MTPDraft) -> None:
        super().__init__(models, Method("plain"))
        self.llm.close()
        settings = dict(n_ctx=models.n_ctx, n_threads=models.threads, n_threads_batch=models.threads, flash_attn=True, verbose=False)
        self.llm = Llama(str(models.target), draft_model=draft, **settings)
        self._vocab = self.llm._model.vocab


def methods(models: Models, depth: int, trees) -> dict:
    made = {f"chain of {depth}": OurMTP(models, MTPDraft(budget=depth, depth=depth, mode="chain"))}
    for budget in trees:
        made[f"tree of {budget}, depth {depth}"] = OurMTP(models, MTPDraft(budget=budget, depth=depth))
    if models.llama_server:
        options = ["--spec-type", "draft-mtp", "--spec-draft-n-max", str(depth)]
        made[f"llama-server, chain of {depth}"] = LlamaServer(models, Method("server-plain"), options)
    return made


def cell(generations) -> str:
    speed = sum(len(g.tokens) - 1 for g in generations) / sum(g.seconds for g in generations)
    if generations[0].rounds is None:
        return f"{speed:.0f}"
    return f"{sum(g.round_tokens for g in generations) / sum(g.rounds for g in generations):.2f}, {speed:.0f}"


def measure(ways: dict, sets, max_tokens: int) -> None:
    """Prints a row of every way."""
    found = {(name, s.name): [] for name in ways for s in sets}
    tokenizer = next(way for way in ways.values() if isinstance(way, Ours)).llm
    for s in sets:
        for text in s.texts:
            prompt = tokenizer.tokenize(text.encode(), add_bos=False, special=True)
            for name, way in ways.items():
                generation: Generation = way.generate(prompt, max_tokens)
                if len(generation.tokens) > 4:
                    found[name, s.name].append(generation)
    for name, way in ways.items():
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
    sets = [read_prompts(spec, "raw", None) for spec in args.prompts]
    with tempfile.TemporaryDirectory() as folder:
        target = args.target or joined(folder)
        models = Models(target, target, args.threads, 1024, args.llama_server)
        print("| " + " | ".join(["", *(s.name for s in sets)]) + " |")
        print("| --- " * (1 + len(sets)) + "|")
        measure({"plain decoding": Ours(models, Method("plain"))}, sets, args.max_tokens)
        for depth in args.depths:
            measure(methods(models, depth, args.trees), sets, args.max_tokens)


if __name__ == "__main__":
    main()
