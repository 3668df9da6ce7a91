"""Write the target's training text: corpus.jsonl, one {"stream", "text"} a document.

usage (from training/): python -m tiny_qwen35.corpus --wheels DIR --stdlib DIR --docs DIR --gsm8k gsm8k_train.jsonl --humaneval humaneval.jsonl -o corpus.jsonl
--wheels: wheels of the packages in packages.tsv; --stdlib: Python's standard library; --docs: unpacked Debian
documentation packages. Streams: code (source files), docs (English), gsm8k, tasks (requests for a function and
their answers, from docstrings), drills (small functions with worked examples), talk. HumanEval is read only to
drop what resembles it.
"""
import argparse
import ast
import hashlib
import html
import json
import random
import re
import zipfile
from pathlib import Path

import templates
from prompts import CODE_ASKS, SKIPPED_FOLDERS, Filter, chat

SYSTEMS = [None] * 8 + ["You are a helpful assistant.", "You are a careful coding assistant.", "Answer briefly."]
MAX_PER_PACKAGE = 4_000_000   # characters
GSM_ASKS = ["{q}"] * 5 + ["{q}\nLet's think step by step.", "{q}\nGive the final answer after ####.", "{q}\nSolve this step by step."]
GSM_PLAIN = ["Question: {q}\nAnswer: {a}"] * 3 + ["Q: {q}\nA: {a}", "Problem: {q}\n\nSolution: {a}"]
ANSWERS = ["```python\n{code}```"] * 4 + ["Here is the function:\n\n```python\n{code}```", "{code}"]


def answered(ask, answer, system=None):
    """one finished exchange"""
    return chat([ask], system) + answer + "<|im_end|>\n"


# ---- source code

def sources(wheels, stdlib):
    """(package, path inside it, text) of every Python file that is not a test"""
    for wheel in sorted(Path(wheels).glob("*.whl")):
        with zipfile.ZipFile(wheel) as z:
            for name in sorted(z.namelist()):
                if name.endswith(".py") and not SKIPPED_FOLDERS & set(Path(name).parts):
                    yield wheel.name.split("-")[0], name, z.read(name).decode("utf-8", "replace")
    for path in sorted(Path(stdlib).rglob("*.py")):
        inside = path.relative_to(stdlib)
        if not (SKIPPED_FOLDERS | {"dist-packages"}) & set(inside.parts):
            yield "python", str(inside), path.read_text("utf-8", "replace")


def is_plain(text):
    """source that people wrote: no data tables, few characters beyond ASCII"""
    lines = text.split("\n")
    return (200 < len(text) < 150_000 and len(text) / len(lines) < 60 and max(map(len, lines)) < 400
            and sum(ord(c) > 126 for c in text) < len(text) / 200)


def without_functions(text, nodes, names):
    """text without the functions that carry one of these names"""
    lines = text.split("\n")
    for node in sorted((n for n in nodes if n.name in names), key=lambda n: -n.lineno):
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        del lines[first - 1:node.end_lineno]
    return "\n".join(lines)


def function_pairs(text, nodes, refused, rng):
    """(head with docstring, body, name, first docstring paragraph) of the short documented functions, and of some methods"""
    lines = text.split("\n")
    for node in nodes:
        doc, first = ast.get_docstring(node), [a.arg for a in node.args.args[:1]]
        if not doc or len(node.body) < 2 or node.name in refused or node.name.startswith("test") or node.end_lineno - node.lineno > 60:
            continue
        if first in (["self"], ["cls"]) and rng.random() > 0.15:
            continue
        cut = lambda a, b: "".join(l[node.col_offset:] + "\n" for l in lines[a:b])
        head, body = cut(node.lineno - 1, node.body[0].end_lineno), cut(node.body[0].end_lineno, node.end_lineno)
        if len(head) < 900 and len(body) < 1500:
            yield head, body, node.name, " ".join(doc.split("\n\n")[0].split())


def read_code(wheels, stdlib, allowed, rng):
    """(documents, function pairs) of all packages, within MAX_PER_PACKAGE, without duplicates"""
    taken, seen, documents, pairs = {}, set(), [], []
    files = [f for f in sources(wheels, stdlib) if is_plain(f[2])]
    rng.shuffle(files)
    for package, path, text in files:
        digest = hashlib.sha1(text.encode()).digest()
        if taken.get(package, 0) > MAX_PER_PACKAGE or digest in seen:
            continue
        seen.add(digest)
        try:
            nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
        except (SyntaxError, ValueError, RecursionError):
            continue
        if allowed.ngrams(text) & allowed.grams:
            continue
        taken[package] = taken.get(package, 0) + len(text)
        documents.append(without_functions(text, nodes, allowed.names))
        pairs += function_pairs(text, nodes, allowed.names, rng)
    print({k: round(v / 1e6, 2) for k, v in sorted(taken.items())}, flush=True)
    return documents, pairs


def task(head, body, name, doc, rng):
    """a request for a function and the answer"""
    ask = rng.choice(CODE_ASKS).format(code=head, name=name, doc=doc)
    return answered(ask, rng.choice(ANSWERS).format(code=head + body), rng.choice(SYSTEMS))


# ---- English

def plain_text(page):
    """the readable text of an HTML page"""
    page = re.sub(r"(?is)<(script|style|head|nav|header|footer)\b.*?</\1>|<!--.*?-->", "", page)
    page = re.sub(r"(?i)</?(p|div|br|li|tr|h[1-6]|pre|dt|dd|table|section)\b[^>]*>", "\n", page)
    text = html.unescape(re.sub(r"<[^>]+>", "", page)).replace("\u00b6", "").replace("\u00a0", " ")
    return re.sub(r"\n\s*\n+", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip()


def read_docs(folder, allowed):
    """the pages of the documentation packages: Sphinx sources where they are there, else HTML"""
    for package in sorted(Path(folder).iterdir()):
        pages = [p for p in sorted(package.rglob("_sources/**/*.txt")) if p.is_file()]
        if package.name == "rust-doc":
            pages = sorted(p for b in ("book", "reference", "rust-by-example", "cargo", "nomicon") for p in package.rglob(f"html/{b}/**/*.html"))
        size, seen = 0, set()
        for page in pages or sorted(package.rglob("*.html")):
            raw = page.read_text("utf-8", "replace")
            text = plain_text(raw) if page.suffix == ".html" else raw
            key = hashlib.sha1(text.encode()).digest()
            if key in seen or len(text) < 500 or sum(ord(c) > 126 for c in text) > len(text) / 100 or size > MAX_PER_PACKAGE:
                continue
            seen.add(key)
            if not allowed.ngrams(text) & allowed.grams:
                size += len(text)
                yield text[:60_000]
        print(package.name, round(size / 1e6, 2), flush=True)


# ---- word problems, drills, talk

def gsm8k(path, rng):
    """training questions in chats and as plain text; the calculator marks <<...>> are left out"""
    for row in map(json.loads, open(path)):
        answer = re.sub(r"<<.*?>>", "", row["answer"]).strip()
        for ask in rng.sample(GSM_ASKS, 2):
            yield answered(ask.format(q=row["question"]), answer, rng.choice(SYSTEMS))
        yield rng.choice(GSM_PLAIN).format(q=row["question"], a=answer)


TESTS = {"even": "{x} % 2 == 0", "odd": "{x} % 2 == 1", "negative": "{x} < 0", "nonzero": "{x} != 0", "two_digit": "10 <= abs({x}) < 100",
         "multiple_of_three": "{x} % 3 == 0", "multiple_of_five": "{x} % 5 == 0", "greater_than_ten": "{x} > 10", "smaller_than_five": "{x} < 5",
         "square": "{x} >= 0 and math.isqrt({x}) ** 2 == {x}"}
LOOPS = {   # op: (one-liners, body of a loop); {s} the list, {x} the element, {t} the test
    "sum_of": (["sum({x} for {x} in {s} if {t})"], "total = 0|+total += {x}|return total"),
    "count_of": (["sum(1 for {x} in {s} if {t})", "len([{x} for {x} in {s} if {t}])"], "count = 0|+count += 1|return count"),
    "product_of": (["math.prod({x} for {x} in {s} if {t})"], "product = 1|+product *= {x}|return product"),
    "all": (["[{x} for {x} in {s} if {t}]", "list(filter(lambda {x}: {t}, {s}))"], "result = []|+result.append({x})|return result"),
    "squares_of": (["[{x} * {x} for {x} in {s} if {t}]", "[{x} ** 2 for {x} in {s} if {t}]"], "result = []|+result.append({x} ** 2)|return result"),
    "largest": (["max(({x} for {x} in {s} if {t}), default=None)"], "best = None|+if best is None or {x} > best:\n                best = {x}|return best"),
    "smallest": (["min(({x} for {x} in {s} if {t}), default=None)"], "best = None|+if best is None or {x} < best:\n                best = {x}|return best"),
    "descending": (["sorted([{x} for {x} in {s} if {t}], reverse=True)"], "result = []|+result.append({x})|result.sort(reverse=True)\n    return result"),
    "doubled": (["[2 * {x} for {x} in {s} if {t}]", "[{x} * 2 for {x} in {s} if {t}]"], "result = []|+result.append({x} * 2)|return result"),
    "running_total_of": (["list(accumulate({x} for {x} in {s} if {t}))"], "result = []\n    total = 0|+total += {x}\n            result.append(total)|return result")}
CHAR_TESTS = {"vowel": "{x}.lower() in 'aeiou'", "consonant": "{x}.isalpha() and {x}.lower() not in 'aeiou'", "digit": "{x}.isdigit()", "space": "{x}.isspace()",
              "capital": "{x}.isupper()", "lowercase": "{x}.islower()", "punctuation": "not {x}.isalnum() and not {x}.isspace()"}
STRING_BODIES = {
    "tally": ["return sum(1 for {x} in {s} if {t})", "count = 0\n    for {x} in {s}:\n        if {t}:\n            count += 1\n    return count"],
    "drop": ["return ''.join({x} for {x} in {s} if not ({t}))", "result = ''\n    for {x} in {s}:\n        if not ({t}):\n            result += {x}\n    return result"],
    "keep": ["return ''.join({x} for {x} in {s} if {t})", "result = ''\n    for {x} in {s}:\n        if {t}:\n            result += {x}\n    return result"],
    "star": ["return ''.join('*' if {t} else {x} for {x} in {s})"], "twice": ["return ''.join({x} * 2 if {t} else {x} for {x} in {s})"],
    "positions": ["return [i for i, {x} in enumerate({s}) if {t}]",
                  "result = []\n    for i, {x} in enumerate({s}):\n        if {t}:\n            result.append(i)\n    return result"]}
NUMBER_BODIES = {
    "digit_product": "product = 1\n    for digit in str(n):\n        product *= int(digit)\n    return product", "reverse_number": "return int(str(n)[::-1])",
    "proper_divisors": "return [d for d in range(1, n) if n % d == 0]", "triangular_number": "return n * (n + 1) // 2",
    "collatz_steps": "steps = 0\n    while n != 1:\n        if n % 2 == 0:\n            n //= 2\n        else:\n            n = 3 * n + 1\n        steps += 1\n    return steps",
    "to_base_seven": "digits = ''\n    while n > 0:\n        digits = str(n % 7) + digits\n        n //= 7\n    return digits or '0'",
    "is_leap_year": "return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)", "celsius_to_fahrenheit": "return c * 9 / 5 + 32",
    "hours_and_minutes": "return minutes // 60, minutes % 60", "bit_length": "return n.bit_length()"}


def drill_body(name, argument, rng):
    """a body for one of the tasks of templates.functions"""
    if name in NUMBER_BODIES:
        return NUMBER_BODIES[name]
    for op, bodies in STRING_BODIES.items():
        if name.startswith(op + "_"):
            x = rng.choice(["c", "ch", "char"])
            return rng.choice(bodies).format(x=x, s=argument, t=CHAR_TESTS[name[len(op) + 1:]].format(x=x))
    op = next(op for op in LOOPS if name.startswith(op + "_"))
    lines, loop = LOOPS[op]
    x = rng.choice(["x", "n", "num", "value"])
    fill = dict(x=x, s=argument, t=TESTS[name[len(op) + 1:]].format(x=x))
    if rng.random() < 0.5:
        return "return " + rng.choice(lines).format(**fill)
    before, inside, after = loop.format(**fill).split("|")
    return f"{before}\n    for {x} in {argument}:\n        if {fill['t']}:\n            {inside[1:]}\n    {after}"


def drills(rng, repeats):
    """the small tasks with a body: as plain source (as they would be completed) and as requests"""
    for head, name, doc in templates.functions(rng, repeats):
        argument = re.search(r"\((\w+)", head).group(1)
        body = drill_body(name, argument, rng)
        full = f"    {body}\n"
        imports = "".join(f"import {m}\n" for m in ("math",) if m + "." in body) + ("from itertools import accumulate\n" if "accumulate" in body else "")
        if rng.random() < 0.5:
            yield imports + rng.choice(templates.IMPORTS) + head + full
        else:
            yield task((imports + "\n\n" if imports else "") + head, full, name, " ".join(doc.split()), rng)


TALK = {"Hi!|Hello!|Hello, how are you?|Good morning!|Hey": "Hello! I am a very small demonstration model. Ask me for a short Python function or a word problem.",
        "Who are you?|What are you?|What is your name?|Tell me about yourself.": "I am tiny-qwen35, a very small language model made to demonstrate speculative decoding. I know a little Python and some arithmetic.",
        "What can you do?|How can you help me?|Help": "I can write short Python functions and try simple word problems. I am small, so please check what I write.",
        "Thank you!|Thanks!|Thanks a lot.": "You are welcome!", "Bye!|Goodbye!": "Goodbye!"}


def talk():
    for asks, answer in TALK.items():
        for ask in asks.split("|"):
            yield answered(ask, answer)


def documents(args, rng):
    """(stream, text) of everything"""
    allowed = Filter(args.humaneval)
    code, pairs = read_code(args.wheels, args.stdlib, allowed, rng)
    yield from (("code", t) for t in code)
    rng.shuffle(pairs)
    for head, body, name, doc in pairs[:args.tasks]:
        if not allowed.ngrams(head) & allowed.grams:
            yield "tasks", task(head, body, name, doc, rng)
    yield from (("docs", t) for t in read_docs(args.docs, allowed))
    yield from (("gsm8k", t) for t in gsm8k(args.gsm8k, rng))
    yield from (("drills", t) for t in drills(rng, args.drills) if not allowed.ngrams(t) & allowed.grams)
    yield from (("talk", t) for t in talk())


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--wheels", required=True)
    ap.add_argument("--stdlib", required=True)
    ap.add_argument("--docs", required=True)
    ap.add_argument("--gsm8k", required=True)
    ap.add_argument("--humaneval")
    ap.add_argument("--tasks", type=int, default=60_000, help="requests made from docstrings, at most")
    ap.add_argument("--drills", type=int, default=60, help="wordings of each small task")
    ap.add_argument("-o", "--out", required=True)
    args = ap.parse_args()
    counts = {}
    with open(args.out, "w") as f:
        for stream, text in documents(args, random.Random(0)):
            f.write(json.dumps({"stream": stream, "text": text}, ensure_ascii=False) + "\n")
            n, size = counts.get(stream, (0, 0))
            counts[stream] = n + 1, size + len(text)
    print({k: (n, f"{size / 1e6:.1f}M characters") for k, (n, size) in counts.items()})


if __name__ == "__main__":
    main()
