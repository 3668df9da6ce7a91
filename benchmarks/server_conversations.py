"""Many conversations on few slots of llama-server: what of a prompt that comes back is evaluated again, and how long its first
token takes.

    python benchmarks/server_conversations.py --target models/tiny-qwen35.gguf --draft-model models/tiny-qwen35-dflash.gguf \
        --conversations 20 --tokens 4000 --slots 4

Each conversation begins with --tokens random tokens. Then all of them, in turn, get --turns more messages. Three ways to keep
them: not at all, in memory (--cache-ram), and in files with little memory (--cache-disk).
"""

import argparse
import random
import statistics
import tempfile

import httpx
from llama_cpp import Llama
from llama_dflash.gguf_file import architecture
from server_clients import BINARY, Server


def ask(url, tokens, n_predict):
    body = {"prompt": tokens, "n_predict": n_predict, "temperature": 0, "return_tokens": True, "ignore_eos": True}
    return httpx.post(f"{url}/completion", json=body, timeout=600, trust_env=False).json()


def run(args, words, texts):
    server = Server(args.binary, args, args.slots, words)
    evaluated, milliseconds = [], []
    try:
        texts = [list(text) for text in texts]
        for turn in range(args.turns + 1):
            for text in texts:
                answer = ask(server.url, text, args.max_tokens)
                if turn > 0:
                    evaluated.append(answer["timings"]["prompt_n"])
                    milliseconds.append(answer["timings"]["prompt_ms"])
                text += answer["tokens"] + text[turn * 20 : turn * 20 + 20]  # and a message
    finally:
        server.stop()
    return statistics.median(evaluated), max(evaluated), statistics.median(milliseconds), max(milliseconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--draft-model", required=True)
    parser.add_argument("--conversations", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ways", default="none,memory,files")
    parser.add_argument("--binary", default=BINARY)
    args = parser.parse_args()
    args.context = args.tokens + 100 * (args.turns + 2)
    rng, n_vocab = random.Random(0), Llama(args.target, vocab_only=True, verbose=False).n_vocab()
    texts = [[rng.randrange(100, n_vocab // 2) for _ in range(args.tokens)] for _ in range(args.conversations)]
    longer = ["--override-kv", f"{architecture(args.target)}.context_length=int:{args.context}"]  # than it was trained for: no text is looked at
    trees = ["--spec-type", "tree", "-md", args.draft_model, *longer]
    print("| kept | evaluated of a prompt, median | most | first token, median | worst |\n| --- | --- | --- | --- | --- |")
    for way in args.ways.split(","):
        with tempfile.TemporaryDirectory() as folder:
            words = {
                "none": ["--cache-ram", 0],
                "memory": ["--cache-ram", 8192],
                "files": ["--cache-ram", 16, "--cache-disk", 8192, "--slot-save-path", folder],
            }
            median, most, median_ms, worst_ms = run(args, [*trees, *words[way]], texts)
        print(f"| {way} | {median:.0f} tokens | {most} | {median_ms:.0f} ms | {worst_ms:.0f} ms |", flush=True)


if __name__ == "__main__":
    main()
