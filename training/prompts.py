"""Write the prompts that the target continues: prompts.jsonl, one {"kind", "text"} a line.

usage: prompts.py --gsm8k gsm8k_train.jsonl --humaneval humaneval.jsonl --code DIR... -o prompts.jsonl
Kinds: code_raw, code_chat, gsm_chat, gsm_plain, general_chat, doc_raw, and the seeds of text that the
target invents itself (self_code, self_user). HumanEval is read only to drop every prompt that resembles it.
"""
import argparse
import ast
import json
import random
import re
from pathlib import Path

import templates

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
OTHER_SYSTEMS = ["You are a helpful assistant.", "You are a careful coding assistant.", "Answer briefly.",
                 "You are an expert who explains things step by step."]
CODE_ASKS = [
    "Complete the following Python function:\n```python\n{code}```",
    "Complete the following Python function:\n\n{code}",
    "Please write the body of this function and return the whole function.\n\n```python\n{code}```",
    "Implement this function in Python.\n\n{code}",
    "Here is the start of a Python function:\n```python\n{code}```\nFinish it.",
    "Continue this code:\n\n{code}",
    "Write a Python function `{name}`. {doc}",
    "Write a Python function that does the following. {doc}",
    "{code}",
    "Explain what this function should do, then implement it:\n```python\n{code}```",
    "Write a Python script with a function `{name}` and a short test for it. {doc}",
]
SELF_CODE = ["from typing import List\n\n\ndef ", "def ", "import math\n\n\ndef ", "from typing import List, Tuple\n\n\ndef ",
             "\ndef ", "class ", "import re\n\n\ndef ", "from typing import Dict, Optional\n\n\ndef ",
             "from collections import Counter\n\n\ndef ", "#!/usr/bin/env python3\n\"\"\"", "def is_", "def get_", "def find_",
             "def count_", "def compute_", "from typing import List\n\n\ndef sum_", "\n\ndef check_", "def sort_", "def max_"]
SKIPPED_FOLDERS = {"test", "tests", "testing", "site-packages", "idlelib", "_vendor", "vendor", "lib2to3"}


def chat(turns, system=SYSTEM):
    """the ChatML template of both targets with the assistant's turn opened; turns alternate user, assistant, user..."""
    text = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    for i, turn in enumerate(turns):
        text += f"<|im_start|>{'assistant' if i % 2 else 'user'}\n{turn}<|im_end|>\n"
    return text + "<|im_start|>assistant\n"


class Filter:
    """Refuses text that resembles a HumanEval problem: its function name, or any 8 words in a row."""

    def __init__(self, path):
        rows = [json.loads(line) for line in open(path)] if path else []
        text = [r["prompt"] for r in rows]
        self.names = set(re.findall(r"def (\w+)\(", "\n".join(text))) | set(templates.HUMANEVAL_NAMES.split())
        self.grams = {g for t in text for g in self.ngrams(t)}

    @staticmethod
    def ngrams(text):
        words = re.findall(r"\w+", text.lower())
        return {tuple(words[i:i + 8]) for i in range(len(words) - 7)}

    def ok(self, text):
        names = {n for pair in re.findall(r"def (\w+)\(|function `(\w+)`", text) for n in pair}
        return not (names & self.names) and not (self.ngrams(text) & self.grams)


def documented_parts(path):
    """(source up to the end of the docstring, name, first docstring paragraph) of a file's documented functions"""
    try:
        source = path.read_text()
        tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
        return
    lines = source.splitlines(keepends=True)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and (doc := ast.get_docstring(node)):
            head = lines[node.lineno - 1:node.body[0].end_lineno]
            if len(node.body) > 1 and 40 < sum(map(len, head)) < 900 and not node.name.startswith("test"):
                indent = len(head[0]) - len(head[0].lstrip())
                yield "".join(l[indent:] if l.strip() else l for l in head), node.name, doc.split("\n\n")[0]
    if (doc := ast.get_docstring(tree)) and len(doc) > 120:
        yield None, None, doc


def library_prompts(dirs, limit_per_dir, systems, rng):
    """code_raw, code_chat and doc_raw prompts cut from Python sources"""
    for folder in map(Path, dirs):
        files = [p for p in sorted(folder.rglob("*.py")) if not SKIPPED_FOLDERS & set(p.relative_to(folder).parts)]
        rng.shuffle(files)
        items = [item for p in files[:600] for item in documented_parts(p)]
        rng.shuffle(items)
        for code, name, doc in items[:limit_per_dir]:
            if code is None:
                yield "doc_raw", doc[:rng.randint(60, 240)]
            else:
                yield from code_prompts(code, name, doc, systems, rng)


def code_prompts(code, name, doc, systems, rng):
    """one function head, raw and as a request"""
    before = rng.choice(["", "", "\n\n", "from typing import List\n\n\n", "import math\n\n\n", "import os\nimport re\n\n\n"])
    yield "code_raw", before + code
    if rng.random() < 0.6:
        ask = rng.choice(CODE_ASKS).format(code=code, name=name, doc=" ".join(doc.split()))
        yield "code_chat", chat([ask], rng.choice(systems))


def other_numbers(question, rng):
    """the question with every number changed to another of as many digits"""
    return re.sub(r"\d+", lambda m: str(rng.randint(10 ** (len(m[0]) - 1) + 1, 10 ** len(m[0]) - 1)), question)


def gsm_prompts(path, copies, systems, rng):
    """GSM8K training questions in the ways people ask them; with copies, that many times more with other numbers"""
    suffixes = ["", "", "", "\nLet's think step by step.", "\nGive the final answer after ####.", "\nSolve this step by step."]
    plain = ["Question: {q}\nAnswer:"] * 4 + ["{q}\n", "Q: {q}\nA:", "Problem: {q}\n\nSolution:"]
    for row in map(json.loads, open(path)):
        for question in [row["question"]] + [other_numbers(row["question"], rng) for _ in range(copies)]:
            system = systems[0] if rng.random() < 0.8 else rng.choice(systems)
            yield "gsm_chat", chat([question + rng.choice(suffixes)], system)
            yield "gsm_plain", rng.choice(plain).format(q=question)


def general_prompts(per_topic, systems, rng):
    """templates x topics, some of two turns"""
    for ask in templates.general(rng, per_topic):
        yield "general_chat", chat([ask], rng.choice(systems))
    for topic in templates.TOPICS:
        turns = [f"Tell me something about {topic}.", f"Sure! Here is one thing about {topic}: people have studied it for a long time.",
                 rng.choice(["Can you go on?", "Give me an example.", "Why does it matter?", "Summarise that in one sentence."])]
        yield "general_chat", chat(turns, systems[0])


def self_prompts(n, systems, rng):
    """openings after which the target itself invents code, or a user's request"""
    for _ in range(n):
        yield "self_code", rng.choice(SELF_CODE)
        yield "self_user", chat([], rng.choice(systems)).replace("<|im_start|>assistant", "<|im_start|>user")


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--gsm8k", required=True)
    ap.add_argument("--humaneval")
    ap.add_argument("--code", nargs="*", default=[], help="folders of permissively licensed Python sources")
    ap.add_argument("--per-dir", type=int, default=1200)
    ap.add_argument("--per-topic", type=int, default=14, help="general questions for each topic")
    ap.add_argument("--other-numbers", type=int, default=0, help="copies of every word problem with other numbers")
    ap.add_argument("--system", default=SYSTEM, help="the target's usual system message; '' for none")
    ap.add_argument("--self-seeds", type=int, default=8000)
    ap.add_argument("-o", "--out", required=True)
    args = ap.parse_args()
    rng, systems = random.Random(0), [args.system] * 6 + OTHER_SYSTEMS
    rows = [*library_prompts(args.code, args.per_dir, systems, rng), *gsm_prompts(args.gsm8k, args.other_numbers, systems, rng)]
    rows += [*general_prompts(args.per_topic, systems, rng)]
    rows += [row for task in templates.functions(rng) for row in code_prompts(*task, systems, rng)]
    ok = Filter(args.humaneval).ok
    rows = [r for r in dict.fromkeys(rows) if ok(r[1])] + list(self_prompts(args.self_seeds, systems, rng))
    rng.shuffle(rows)
    with open(args.out, "w") as f:
        for kind, text in rows:
            f.write(json.dumps({"kind": kind, "text": text}) + "\n")
    print({k: sum(r[0] == k for r in rows) for k in sorted({r[0] for r in rows})})


if __name__ == "__main__":
    main()
