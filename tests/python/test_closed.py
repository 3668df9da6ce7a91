"""After close() every call is a RuntimeError that says so, and the process lives. In a process of its own: it may not."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from llama_cpp import LogitsProcessorList
from llama_dflash import DFlashDraft, Llama

target, drafter, kind = sys.argv[1:]
SETTINGS = dict(n_ctx=256, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, verbose=False)
PROMPT = list(b"the digits: 0123")
draft = {"plain": None, "drafted": DFlashDraft(drafter, budget=8)}[kind]

def load(**more):
    return Llama(target, draft_model=draft, **SETTINGS, **more)

llm = load()
tokenizer, model, stream = llm.tokenizer(), llm._model, llm.generate(PROMPT, temp=0.0)
answer = llm.create_completion("0123", max_tokens=30, stream=True)
next(answer)
other = load()
state = other.save_state()
messages = [{"role": "user", "content": "0"}]
streams = [load().generate(PROMPT, temp=0.0) for _ in range(2)]

llm.close()
llm.close()
CALLS = {
    "eval": lambda: llm.eval([1]),
    "sample": lambda: llm.sample(),
    "reset": lambda: llm.reset(),
    "tokenize": lambda: llm.tokenize(b"0"),
    "detokenize": lambda: llm.detokenize([48]),
    "embed": lambda: llm.embed("0"),
    "create_embedding": lambda: llm.create_embedding("0"),
    "save_state": lambda: llm.save_state(),
    "load_state": lambda: llm.load_state(state),
    "generate": lambda: next(llm.generate(PROMPT)),
    "create_completion": lambda: llm.create_completion("0"),
    "a streamed completion": lambda: next(llm.create_completion("0", stream=True)),
    "call": lambda: llm("0"),
    "create_chat_completion": lambda: llm.create_chat_completion(messages),
    "a streamed chat": lambda: next(llm.create_chat_completion(messages, stream=True)),
    "n_ctx": lambda: llm.n_ctx(),
    "n_embd": lambda: llm.n_embd(),
    "n_vocab": lambda: llm.n_vocab(),
    "token_eos": lambda: llm.token_eos(),
    "token_bos": lambda: llm.token_bos(),
    "token_nl": lambda: llm.token_nl(),
    "pooling_type": lambda: llm.pooling_type(),
    "ctx": lambda: llm.ctx,
    "model": lambda: llm.model,
    "tokenizer": lambda: llm.tokenizer(),
    "its tokenizer": lambda: tokenizer.encode("0"),
    "its tokenizer's way back": lambda: tokenizer.decode([48]),
    "its model": lambda: model.token_get_text(48),
    "a stream that was not begun": lambda: next(stream),
    "a stream that was": lambda: list(answer),
}
for name, call in CALLS.items():
    print(name, flush=True)
    try:
        call()
    except RuntimeError as error:
        assert "closed" in str(error) and "new Llama" in str(error), error
    else:
        raise SystemExit(f"{name} did not raise")

# a stream closed from within its own generation, at every token of a round
for n in range(1, 8):
    one = load()
    tokens = one.generate(PROMPT, temp=0.0)
    for _ in range(n):
        next(tokens)
    one.close()
    try:
        next(tokens)
    except RuntimeError as error:
        assert "closed" in str(error), error
    else:
        raise SystemExit("a stream went on")

def closes(input_ids, scores):
    other.close()
    return scores

try:
    list(zip(range(5), other.generate(PROMPT, logits_processor=LogitsProcessorList([closes]))))
except RuntimeError as error:
    assert "logits processor" in str(error), error
else:
    raise SystemExit("a processor closed its Llama")
other.close()
print("done")
"""


@pytest.mark.parametrize("kind", ["plain", "drafted"])
def test_every_call_after_close_is_an_error_that_says_so(any_pair, tmp_path, kind):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(any_pair.target), str(any_pair.drafter), kind],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, f"exit code {run.returncode} after {run.stdout.splitlines()[-1:]}\n{run.stderr[-2000:]}"
    assert run.stdout.endswith("done\n")
