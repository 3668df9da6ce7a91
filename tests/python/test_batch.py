"""LlamaBatch: every request's answer is the one that a Llama gives alone, whatever is written beside it."""

import itertools
import pickle

import numpy as np
import pytest
from conftest import write_pair
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_cpp import LlamaGrammar, LogitsProcessorList, StoppingCriteriaList

from llama_dflash import Llama, LlamaBatch, NGramDraft

SETTINGS = dict(n_ctx=512, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, flash_attn=True, seed=1, verbose=False)
SOME = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
LONG = "the digits: " + "0123456789" * 20  # several batches of the prompt


@pytest.fixture(scope="module", params=["dense", "hybrid"])
def models(request, tmp_path_factory):
    arch, seed = {"dense": ("llama", 0), "hybrid": ("qwen35", 8)}[request.param]
    return write_pair(tmp_path_factory.mktemp("batch"), arch, seed)


@pytest.fixture(scope="module", params=["plain", "drafts"])
def both(request, models):
    """A LlamaBatch of three lanes and the Llama without a drafter."""
    draft = None if request.param == "plain" else [models.draft(budget=6), NGramDraft()]
    batch = LlamaBatch(str(models.target), draft_model=draft, n_parallel=3, **SETTINGS)
    alone = Llama(str(models.target), logits_all=True, **SETTINGS)
    yield batch, alone
    batch.close()
    alone.close()


def same_answers(given, expected):
    ids = ("id", "created")
    assert [{k: v for k, v in one.items() if k not in ids} for one in given] == [
        {k: v for k, v in one.items() if k not in ids} for one in expected
    ]


def answers_alone(alone, prompts, request):
    answers = []
    for prompt in prompts:
        alone.reset()
        answers.append(alone.create_completion(prompt, **request()))
    return answers


SAMPLING = st.fixed_dictionaries(
    dict(
        temperature=st.sampled_from([0.0, 0.0, 0.7, 1.3]),
        max_tokens=st.integers(1, 40),
        top_k=st.sampled_from([0, 5, 40]),
        repeat_penalty=st.sampled_from([1.0, 1.2]),
        presence_penalty=st.sampled_from([0.0, 0.5]),
        mirostat_mode=st.sampled_from([0, 0, 2]),
        stop=st.sampled_from([[], ["7"], ["45", "x"]]),
        seed=st.integers(0, 99),
    )
)
GRAMMARS = st.sampled_from([None, None, 'root ::= [0-9]+', 'root ::= ("12" | "34" | "5")+'])
PROMPTS = st.lists(st.text("0123456789 ", min_size=1, max_size=30).map("the digits: ".__add__), min_size=1, max_size=7)


@SOME
@given(prompts=PROMPTS, sampling=SAMPLING, grammar=GRAMMARS, logprobs=st.sampled_from([None, None, 3]), bias=st.booleans())
def test_answers_are_those_of_a_llama_alone(both, prompts, sampling, grammar, logprobs, bias):
    """Texts, reasons for their end, numbers of tokens and log-probabilities."""
    batch, alone = both

    def request():
        one = dict(sampling, logprobs=logprobs)
        if grammar is not None:
            one["grammar"] = LlamaGrammar.from_string(grammar, verbose=False)
        if bias:
            one["logit_bias"] = {"48": 2.0}
        return one

    if grammar is not None:  # a grammar object belongs to one text
        given_answers = [batch.create_completion(prompt, **request()) for prompt in prompts]
    else:
        given_answers = batch.create_completions(prompts, **request())
    same_answers(given_answers, answers_alone(alone, prompts, request))


def test_long_prompts_in_pieces(both):
    batch, alone = both
    prompts = [LONG[: 90 + 37 * i] for i in range(5)]
    request = dict(temperature=0.0, max_tokens=24)
    fresh = [["7" * (i + 1) + prompt for i, prompt in enumerate(prompts)], prompts[:1]]
    for some in fresh:
        given_answers = batch.create_completions(some, **request)
        same_answers(given_answers, answers_alone(alone, some, lambda: request))


def test_streams_are_those_of_a_llama_alone(both):
    batch, alone = both
    request = dict(temperature=0.0, max_tokens=30, stream=True)
    streams = [batch.create_completion(f"the digits: {i}", **request) for i in range(5)]
    read = [[] for _ in streams]
    for round_of_chunks in itertools.zip_longest(*streams):
        for i, chunk in enumerate(round_of_chunks):
            if chunk is not None:
                read[i].append(chunk["choices"][0])
    for i, choices in enumerate(read):
        alone.reset()
        assert choices == [chunk["choices"][0] for chunk in alone.create_completion(f"the digits: {i}", **request)]


def test_echo_with_logprobs(both):
    batch, alone = both
    request = dict(temperature=0.0, max_tokens=8, logprobs=2, echo=True)
    batch.create_completion("the digits: 01234", max_tokens=4)  # in memory, but without logits
    same_answers([batch.create_completion("the digits: 01234", **request)], answers_alone(alone, ["the digits: 01234"], lambda: request))


def test_processors_and_stopping_criteria_see_what_they_see_alone(both):
    batch, alone = both

    def watched(seen):
        def process(ids, scores):
            seen.append(("ids", ids.tolist()))
            scores[50] += 1.0
            return scores

        def stop(ids, logits):
            seen.append(("stop", ids.tolist(), float(np.max(logits)) if len(ids) < 0 else None))
            return len(ids) > 30

        return dict(logits_processor=LogitsProcessorList([process]), stopping_criteria=StoppingCriteriaList([stop]))

    request = dict(temperature=0.0, max_tokens=60)
    ours, theirs = [], []
    given_answer = batch.create_completion("the digits: 3", **request, **watched(ours))
    alone.reset()
    expected = alone.create_completion("the digits: 3", **request, **watched(theirs))
    same_answers([given_answer], [expected])
    assert ours == theirs


def test_texts_without_seeds_are_those_of_a_llama_asked_in_the_same_order(models):
    batch = LlamaBatch(str(models.target), n_parallel=2, **SETTINGS)
    alone = Llama(str(models.target), **SETTINGS)
    prompts = ["the digits: 1"] * 4
    given_answers = batch.create_completions(prompts, temperature=1.5, max_tokens=20)
    same_answers(given_answers, [(alone.reset(), alone.create_completion(p, temperature=1.5, max_tokens=20))[1] for p in prompts])
    assert len({one["choices"][0]["text"] for one in given_answers}) > 1
    batch.close()
    alone.close()


def test_chats_with_formats_json_schemas_and_tools(both):
    batch, alone = both
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
    schema = {"type": "json_object", "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}
    asked = [
        dict(),
        dict(response_format=schema),
        dict(tools=[tool], tool_choice={"type": "function", "function": {"name": "add"}}),
        dict(logprobs=True, top_logprobs=2),
    ]
    chats = [[{"role": "user", "content": f"Say {i}"}] for i in range(3)]
    for request in asked:
        request = dict(request, temperature=0.0, max_tokens=16)
        given_answers = batch.create_chat_completions(chats, **request)
        for answer, chat in zip(given_answers, chats):
            alone.reset()
            assert answer["choices"] == alone.create_chat_completion(chat, **request)["choices"] or "tools" in request
            if "tools" in request:  # which have ids of their own
                assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "add"


def test_one_forward_serves_all(models):
    """Six texts of 30 tokens in a few more than 30 rounds."""
    batch = LlamaBatch(str(models.target), draft_model=models.draft(budget=1, mode="chain"), n_parallel=6, **SETTINGS)
    forwards = []
    start = batch._lane_engine.start_all
    batch._lane_engine.start_all = lambda requests: (forwards.append(len(requests)), start(requests))[1]
    batch.create_completions([f"the digits: {i}" for i in range(6)], temperature=0.0, max_tokens=30)
    assert len(forwards) <= 34 and max(forwards) == 6
    batch.close()


def test_an_error_of_one_request_is_its_own(both):
    batch, _ = both
    answers = batch.create_completions(["the digits: 1", "x" * 3000, "the digits: 2"], max_tokens=4, progress=True)
    assert isinstance(answers[1], ValueError) and "exceed context window of 512" in str(answers[1])
    assert answers[0]["usage"]["completion_tokens"] == answers[2]["usage"]["completion_tokens"] == 4

    def failing(ids, scores):
        raise KeyError("of the processor")

    beside = batch.create_completion("the digits: 5", temperature=0.0, max_tokens=30, stream=True)
    next(beside)
    with pytest.raises(KeyError, match="of the processor"):
        batch.create_completion("the digits: 1", logits_processor=LogitsProcessorList([failing]))
    assert len(list(beside)) > 5


def test_what_a_batch_does_not_do_says_so(both, models):
    batch, _ = both
    for method, args in (("eval", [[1]]), ("sample", []), ("reset", []), ("create_embedding", ["x"]), ("save_state", []), ("generate", [[1]])):
        with pytest.raises(RuntimeError, match=f"{method}.*Use Llama"):
            getattr(batch, method)(*args)
    for wrong in (dict(n_parallel=0), dict(n_parallel=True), dict(embedding=True), dict(draft_model=lambda ids: ids), dict(n_parallel=65)):
        with pytest.raises(ValueError):
            LlamaBatch(str(models.target), **{**SETTINGS, **wrong})


def test_a_pickled_batch_is_one_with_the_same_settings(models):
    batch = LlamaBatch(str(models.target), n_parallel=2, **SETTINGS)
    other = pickle.loads(pickle.dumps(batch))
    assert other.n_ctx() == batch.n_ctx() == 512 and other._n_lanes == 2
    batch.close()
    other.close()
