"""Several clients of one llama-server: tokens a second of all together and time to the first token, of the same binary with
draft trees, with upstream's own chain, and plainly.

    python benchmarks/server_clients.py --target smollm2-F16.gguf --draft-model models/smollm2-135m-instruct-dflash.gguf \
        --prompts ../shared/data/humaneval_dev.jsonl:16 --clients 1,4 --threads 2

Every client asks for --max-tokens tokens at temperature 0 again and again, until the prompts are used up. The ways take turns,
--repeats times; the best time of each counts, and the worst first token of that run.
"""

import argparse
import json
import re
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from llama_dflash import _library
from llama_dflash.bench.prompts import read_prompts

BINARY = _library.lib_dir.parent / "bin" / "llama-dflash-server"


class Server:
    def __init__(self, binary, args, n_clients, words):
        self.log = tempfile.NamedTemporaryFile("r", suffix=".log")
        command = [binary, "-m", args.target, "--host", "127.0.0.1", "--port", "0", "-fa", "on", "-t", args.threads, "-tb", args.threads]
        command += ["-np", n_clients, "-c", args.context * n_clients, "--no-webui", *words]
        self.process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=open(self.log.name, "w"))
        while True:
            listens = re.search(r"listening on (http://\S+)", Path(self.log.name).read_text(errors="replace"))
            if listens:
                break
            if self.process.poll() is not None:
                raise SystemExit(f"the server did not start:\n{Path(self.log.name).read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        self.url = listens[1]

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


def ask(url, prompt, max_tokens):
    """Seconds to the first token, tokens, and the last event."""
    started, first = time.perf_counter(), None
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens, "temperature": 0, "stream": True, "cache_prompt": False}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=600, trust_env=False) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if first is None and event.get("choices") and event["choices"][0]["delta"].get("content"):
                first = time.perf_counter() - started
            last = event
    timings = last["timings"]
    return first or time.perf_counter() - started, timings["predicted_n"], timings


def run(binary, args, n_clients, words, prompts):
    server = Server(binary, args, n_clients, ["--cache-ram", 0, *words])
    try:
        with ThreadPoolExecutor(n_clients) as pool:
            list(pool.map(lambda prompt: ask(server.url, prompt, args.max_tokens), prompts[: 2 * n_clients]))  # "auto" learns
            started = time.perf_counter()
            answers = list(pool.map(lambda prompt: ask(server.url, prompt, args.max_tokens), prompts))
            seconds = time.perf_counter() - started
    finally:
        server.stop()
    firsts = [first for first, _, _ in answers]
    n_steps = sum(timings.get("rounds", 0) for _, _, timings in answers)
    n_tokens = sum(n for _, n, _ in answers)
    return n_tokens / seconds, statistics.median(firsts), max(firsts), (n_tokens - len(answers)) / n_steps if n_steps else 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--draft-model", required=True)
    parser.add_argument("--chain", default="draft-dflash", help="upstream's --spec-type for this drafter")
    parser.add_argument("--chain-length", type=int, default=7, help="upstream's --spec-draft-n-max")
    parser.add_argument("--prompts", required=True, metavar="FILE.jsonl[:N]")
    parser.add_argument("--clients", default="1,4")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--context", type=int, default=1024, help="tokens of one client")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--ways", default="plain,chain,tree", help="with commas")
    parser.add_argument("--binary", default=BINARY)
    args = parser.parse_args()
    prompts = read_prompts(args.prompts).texts
    ways = {
        "plain": [],
        "chain": ["-md", args.draft_model, "--spec-type", args.chain, "--spec-draft-n-max", args.chain_length],
        "tree": ["-md", args.draft_model, "--spec-type", "tree"],
    }
    best = {}
    for _ in range(args.repeats):
        for n_clients in map(int, args.clients.split(",")):
            for way in args.ways.split(","):
                result = run(args.binary, args, n_clients, ways[way], prompts)
                best[way, n_clients] = max(best.get((way, n_clients), (0.0,)), result)
    print("| clients | way | tokens/s | times plain | first token, median | worst | tokens a round |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (way, n_clients), (speed, median, worst, length) in sorted(best.items(), key=lambda item: (item[0][1], list(ways).index(item[0][0]))):
        ratio = speed / best.get(("plain", n_clients), (float("nan"),))[0]
        print(f"| {n_clients} | {way} | {speed:.1f} | {ratio:.2f} | {median:.2f} s | {worst:.2f} s | {f'{length:.2f}' if length else ''} |")


if __name__ == "__main__":
    main()
