"""What several clients get of a server: tokens a second together, and seconds to the first token.

    python benchmarks/serving.py --target smollm2-F16.gguf --draft-model models/smollm2-135m-instruct-dflash.gguf \
        --prompts ../shared/data/humaneval_dev.jsonl:8 --prompts edit:4 --clients 1,2,4,8 --out benchmarks/results/serving-smollm2.json

Each client sends its next prompt as soon as it has the last answer, until all prompts are answered. All ways of serving are
started before the first prompt; for every number of clients they take turns, --repeats times, and the fastest time of each
counts. Texts are compared with those of the plain server asked by one client. serving_tables.py shows the result.
"""

from __future__ import annotations

import argparse
import json
import queue
import signal
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from served import Answer, Server, llama_server, package_server, python_server

import llama_dflash  # noqa: F401  (before llama_cpp)
from llama_cpp import Llama
from llama_dflash.bench import surroundings
from llama_dflash.bench.prompts import read_prompts

CHAIN_LENGTHS = (3, 7)
SAME = 1e-2  # two log-probabilities that are no further apart may change places by rounding


@dataclass(frozen=True)
class Way:
    """A way of serving. kind: "plain", "chain" (upstream's), "tree" (ours) or "python" (0.1.0's server)."""

    kind: str
    name: str
    start: Callable[[], Server]


def ways(args: argparse.Namespace) -> List[Way]:
    """What is compared, as the arguments name it."""
    n_slots, drafter = max(args.clients), str(args.draft_model)

    def ours(*options: str) -> Callable[[], Server]:
        return lambda: llama_server(args.server, args.target, n_slots, args.context, args.threads, *options)

    def python(*options: str) -> Callable[[], Server]:
        return lambda: python_server(args.target, args.context, args.threads, *options)

    every = [Way("plain", "plain", ours())]
    spec = ["--spec-draft-model", drafter, "--spec-type"]
    for n in CHAIN_LENGTHS:
        length = ["--spec-draft-n-max", str(n)]
        every.append(Way("chain", f"chain {n}", ours(*spec, args.chain_type, *length)))
        every.append(Way("chain", f"chain {n} + ngram", ours(*spec, f"{args.chain_type},ngram-mod", *length)))
    every.append(Way("tree", "tree", ours(*spec, "tree")))
    every.append(Way("tree", "tree + ngram", ours(*spec, "tree", "--spec-draft", "dflash,ngram")))
    every.append(Way("python", "python server", python("--draft_model", drafter)))
    return [way for way in every if args.ways is None or way.name in args.ways]


# ---------------------------------------------------------------- one run


def run(server: Server, prompts: List[str], n_clients: int, max_tokens: int) -> Dict[str, Any]:
    """Answers to all prompts, asked by n_clients at once, and the time until the last one was there."""
    waiting: "queue.Queue[int]" = queue.Queue()
    for i in range(len(prompts)):
        waiting.put(i)
    answers: List[Optional[Answer]] = [None] * len(prompts)
    errors: List[Exception] = []

    def client() -> None:
        try:
            while True:
                i = waiting.get_nowait()
                answers[i] = server.complete(prompts[i], max_tokens, cache_prompt=False)
        except queue.Empty:
            pass
        except Exception as error:  # told below, in the main thread
            errors.append(error)

    threads = [threading.Thread(target=client) for _ in range(n_clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    if errors:
        raise SystemExit(f"serving.py: {errors[0]}\n{server.log()}")
    first = sorted(answer.first for answer in answers)
    return {
        "seconds": seconds,
        "tokens": sum(answer.n_tokens for answer in answers),
        "first_token_median": statistics.median(first),
        "first_token_worst": first[-1],
        "draft_n": sum(answer.timings.get("draft_n", 0) for answer in answers),
        "draft_n_accepted": sum(answer.timings.get("draft_n_accepted", 0) for answer in answers),
        "rounds": sum(answer.timings.get("rounds", 0) for answer in answers),  # of trees
        "texts": [answer.text for answer in answers],
    }


# ---------------------------------------------------------------- the same texts


@dataclass
class Reference:
    """What the plain server writes for a prompt, alone, and how far its two best tokens are apart at every position."""

    text: str
    ends: List[int]  # in the text, after each token
    gaps: List[float]

    def accepts(self, text: str) -> bool:
        """True if a text is the same, or parts where rounding decides."""
        if text == self.text:
            return True
        at = next((i for i, (a, b) in enumerate(zip(text, self.text)) if a != b), min(len(text), len(self.text)))
        token = next((i for i, end in enumerate(self.ends) if end > at), len(self.gaps) - 1)
        return self.gaps[token] <= SAME


def reference(server: Server, prompt: str, max_tokens: int) -> Reference:
    body = {"prompt": prompt, "n_predict": max_tokens, "temperature": 0, "n_probs": 2, "cache_prompt": False}
    status, answer = server.post("/completion", body)
    if status != 200:
        raise SystemExit(f"serving.py: {answer.decode(errors='replace')}")
    written, ends, gaps = json.loads(answer), [], []
    for token in written["completion_probabilities"]:
        ends.append((ends[-1] if ends else 0) + len(token["token"]))
        best, second = (entry["logprob"] for entry in token["top_logprobs"])
        gaps.append(best - second)
    return Reference(written["content"], ends, gaps)


def as_text(spec: str, target: Path) -> List[str]:
    """Prompts of a set as texts; questions within the target's chat template."""
    prompts = read_prompts(spec)
    if prompts.style != "chat":
        return prompts.texts
    llm = Llama(str(target), vocab_only=True, verbose=False)
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    eos, bos = (llm._model.token_get_text(token) for token in (llm.token_eos(), llm.token_bos()))
    chat = Jinja2ChatFormatter(template=llm.metadata["tokenizer.chat_template"], eos_token=eos, bos_token=bos)
    return [chat(messages=[{"role": "user", "content": text}]).prompt for text in prompts.texts]


# ---------------------------------------------------------------- all runs


def measure(args: argparse.Namespace) -> Dict[str, Any]:
    prompts = [text for spec in args.prompts for text in as_text(spec, args.target)]
    servers = {way: way.start() for way in ways(args)}
    try:
        plain = next(server for way, server in servers.items() if way.kind == "plain")
        expected = [reference(plain, prompt, args.max_tokens) for prompt in prompts]
        for server in servers.values():  # costs are learned, buffers are there
            run(server, prompts[: max(args.clients)], max(args.clients), args.max_tokens)
            run(server, prompts[:2], 1, args.max_tokens)
        runs = []
        for repeat in range(args.repeats):
            for n_clients in args.clients:
                turn = list(servers.items())
                for way, server in turn[repeat % len(turn) :] + turn[: repeat % len(turn)]:
                    one = run(server, prompts, n_clients, args.max_tokens)
                    texts = one.pop("texts")
                    one["texts_differ"] = sum(text != e.text for text, e in zip(texts, expected))
                    one["texts_wrong"] = sum(not e.accepts(text) for text, e in zip(texts, expected))
                    runs.append({"way": way.name, "kind": way.kind, "clients": n_clients, "repeat": repeat, **one})
                    print(
                        f"{way.name:>16}, {n_clients} clients: {one['tokens'] / one['seconds']:6.1f} tokens/s, first token "
                        f"{one['first_token_median']:.2f} s median, {one['first_token_worst']:.2f} s worst; "
                        f"{one['texts_differ']} texts differ, {one['texts_wrong']} of them by more than rounding",
                        file=sys.stderr,
                    )
    finally:
        for server in servers.values():
            server.stop()
    return {
        "date": date.today().isoformat(),
        "machine": surroundings.machine(),
        "versions": surroundings.versions(None, Path(__file__).resolve().parents[1]),
        "command": surroundings.command_line(["python", "benchmarks/serving.py"], sys.argv[1:]),
        "target": args.target.stem,
        "n_prompts": len(prompts),
        "max_tokens": args.max_tokens,
        "threads": args.threads,
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--draft-model", type=Path, required=True, help="a DFlash drafter of it")
    parser.add_argument("--prompts", action="append", required=True, metavar="FILE.jsonl[:N]", help="or NAME[:N]; again for more")
    parser.add_argument("--server", type=Path, default=package_server(), help="default: the installed package's")
    parser.add_argument("--chain-type", default="draft-dflash", help="upstream's --spec-type (default: %(default)s)")
    parser.add_argument("--ways", type=lambda s: s.split(","), help="some of the ways, by name; default: all")
    parser.add_argument("--clients", type=lambda s: [int(n) for n in s.split(",")], default=[1, 2, 4, 8])
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--context", type=int, default=1024, help="tokens of a slot (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a JSON file")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers end too
    results = measure(args)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    from serving_tables import bars, table

    print(f"{table(results)}\n\n{bars(results)}")


if __name__ == "__main__":
    main()
