"""Between two tokens anything may be called: the text that follows is plain decoding's under the same calls.

(tests/oracle does this with random calls.) Texts are compared in a process with GGML_CPU_BATCH_INVARIANT=1, bit for bit.
"""

import os
import subprocess
import sys

import pytest
from conftest import write_pair

SCRIPT = """
import sys
from llama_cpp import LlamaGrammar, LogitsProcessorList
from llama_dflash import DFlashDraft, Llama

target, drafter, call, *samplers = sys.argv[1:]
SETTINGS = dict(n_ctx=512, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)
PROMPT = list(b"the digits: 0123")

CALLS = {
    "save": lambda llm, token: llm.save_state(),
    "save and load": lambda llm, token: llm.load_state(llm.save_state()),
    "evaluate again": lambda llm, token: llm.eval([token]),
    "evaluate another": lambda llm, token: llm.eval([50, 51]),
    "cut back": lambda llm, token: setattr(llm, "n_tokens", llm.n_tokens - 3),
    "sample": lambda llm, token: llm.sample(temp=0.0),
    "reset": lambda llm, token: llm.reset(),
    "another generation": lambda llm, token: [t for t, _ in zip(llm.generate([48, 49], temp=0.9), range(5))],
    "a completion": lambda llm, token: llm.create_completion("0123", max_tokens=5),
}
SAMPLERS = {
    "greedy": lambda: dict(temp=0.0),
    "temperature": lambda: dict(temp=1.0, top_k=0, top_p=1.0, min_p=0.0),
    "penalties": lambda: dict(temp=0.8, repeat_penalty=1.3, frequency_penalty=0.4, presence_penalty=0.2),
    "mirostat 1": lambda: dict(temp=1.0, mirostat_mode=1, mirostat_tau=2.0),
    "mirostat 2": lambda: dict(temp=1.0, mirostat_mode=2, mirostat_tau=2.0),
    "grammar": lambda: dict(temp=1.0, grammar=LlamaGrammar.from_string('root ::= ([0-3] [2-5])+ "."', verbose=False)),
    "processor": lambda: dict(temp=0.7, logits_processor=LogitsProcessorList([Counts()])),
}

class Counts:
    n = 0

    def __call__(self, input_ids, scores):
        self.n += 1
        scores[48 + self.n % 5] += 4.0
        return scores

def text(llm, places, sampler):
    llm.reset()
    llm.set_seed(7)
    tokens = []
    stream = llm.generate(PROMPT, **SAMPLERS[sampler]())
    for token, i in zip(stream, range(24)):
        tokens.append((token, llm.n_tokens, llm._input_ids.tolist()))
        if i in places:
            CALLS[call](llm, token)
    stream.close()
    return tokens

plain = Llama(target, **SETTINGS)
drafted = Llama(target, draft_model=DFlashDraft(drafter, budget=12), **SETTINGS)
for sampler in samplers:
    for places in ((1,), (2,), (3,), (5, 6, 9), tuple(range(24))):
        a, b = text(plain, places, sampler), text(drafted, places, sampler)
        differs = next((pair for pair in zip(a, b) if pair[0] != pair[1]), None)
        assert a == b, (sampler, places, differs)
text(drafted, (), "greedy")
assert drafted.speculative_stats.accepted > 2
print("equal")
"""

SAMPLERS = ["greedy", "temperature", "penalties", "mirostat 1", "mirostat 2", "grammar", "processor"]
# every call with one sampler that has a state, two calls with every sampler
CALLS = {
    **dict.fromkeys(["save", "evaluate another", "cut back", "sample", "reset", "another generation", "a completion"], ["penalties"]),
    **dict.fromkeys(["save and load", "evaluate again"], SAMPLERS),
}


@pytest.fixture(scope="module", params=[("llama", 5), ("qwen35", 8)], ids=lambda p: p[0])
def arch_pair(request, tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("between"), *request.param)


@pytest.mark.parametrize("call", CALLS)
def test_a_call_between_two_tokens_changes_no_text(arch_pair, tmp_path, call):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(arch_pair.target), str(arch_pair.drafter), call, *CALLS[call]],
        cwd=tmp_path,  # python -c imports from the current folder
        env={**os.environ, "GGML_CPU_BATCH_INVARIANT": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout.strip() == "equal", run.stderr[-2000:]
