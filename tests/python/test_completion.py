"""Completions and chats: everything a caller can ask for, with a drafter as without."""

import json
import re

import jsonschema
import pytest
from same_text import TOLERANCE, assert_same_text

from llama_cpp import LlamaGrammar, StoppingCriteriaList

PROMPT = "the digits: 0123"
MESSAGES = [
    {"role": "system", "content": "You write digits."},
    {"role": "user", "content": "Go on: 0123"},
]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "digits": {"type": "array", "items": {"enum": [0, 1, 22]}, "minItems": 3, "maxItems": 5},
        "good": {"type": "boolean"},
    },
    "required": ["name", "digits", "good"],
}


def tokens(llm, text):
    return llm.tokenize(text.encode(), add_bos=False)


def text_of(chunks, key="text"):
    parts = [chunk["choices"][0] for chunk in chunks]
    return "".join(part["text"] if key == "text" else part["delta"].get("content") or "" for part in parts)


def assert_same(plain, a, b, prompt=PROMPT):
    assert_same_text(plain, tokens(plain, prompt), tokens(plain, a), tokens(plain, b))


def test_a_completion_is_plain_decodings(drafted, plain):
    answers = [llm.create_completion(PROMPT, max_tokens=60, temperature=0.0) for llm in (plain, drafted)]
    a, b = (answer["choices"][0] for answer in answers)
    assert_same(plain, a["text"], b["text"])
    assert a["finish_reason"] == b["finish_reason"] == "length"
    assert answers[0]["usage"] == answers[1]["usage"]


def test_a_streamed_completion_is_the_whole_one(drafted, plain):
    whole = drafted.create_completion(PROMPT, max_tokens=60, temperature=0.0)["choices"][0]["text"]
    chunks = list(drafted.create_completion(PROMPT, max_tokens=60, temperature=0.0, stream=True))
    assert text_of(chunks) == whole
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert len(chunks) > 20  # token by token, not round by round


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 9])
def test_max_tokens_is_exact_and_nothing_is_drafted_beyond_it(drafted, plain, max_tokens):
    answer = drafted.create_completion(PROMPT, max_tokens=max_tokens, temperature=0.0)
    assert answer["usage"]["completion_tokens"] == max_tokens
    assert drafted.speculative_stats.tokens == max_tokens - 1
    assert len(list(zip(range(20), drafted.generate([48, 49])))) == 20  # the limit was that completion's own


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_inside_an_accepted_path_ends_the_text(drafted, plain, stream):
    text = plain.create_completion(PROMPT, max_tokens=60, temperature=0.0)["choices"][0]["text"]
    for start in range(1, 40, 3):
        stop = text[start : start + 2]
        results = []
        for llm in (plain, drafted):
            answer = llm.create_completion(PROMPT, max_tokens=60, temperature=0.0, stop=[stop, "never"], stream=stream)
            chunks = list(answer) if stream else [answer]
            results.append((text_of(chunks), chunks[-1]["choices"][0]["finish_reason"], llm._input_ids.tolist()))
        assert results[0] == results[1]
        assert results[1][0] == text[: text.index(stop)] and results[1][1] == "stop"
        again = drafted.create_completion(PROMPT, max_tokens=60, temperature=0.0)["choices"][0]["text"]
        assert_same(plain, text, again)


@pytest.mark.parametrize("stream", [False, True])
def test_an_end_of_text_token_inside_an_accepted_path_ends_the_text(load, kept, pair, stream):
    """One favourite of the model is made its end-of-text token, which the drafter then drafts."""
    overrides = {"tokenizer.ggml.eos_token_id": ord("2")}
    plain, llm = load(pair, kv_overrides=overrides), load(pair, pair.draft(budget=20), kv_overrides=overrides)
    ended = 0
    for start in range(10):
        results = []
        for one in (plain, llm):
            answer = one.create_completion(
                f"{start} {PROMPT}", max_tokens=40, temperature=1.0, seed=start, stream=stream
            )
            chunks = list(answer) if stream else [answer]
            results.append((text_of(chunks), chunks[-1]["choices"][0]["finish_reason"], one._input_ids.tolist()))
        assert results[0] == results[1]
        ended += results[1][1] == "stop" and llm.speculative_stats.accepted > 0
    assert ended > 2


def test_generate_goes_on_after_an_end_of_text_token(load, pair):
    overrides = {"tokenizer.ggml.eos_token_id": ord("1")}
    texts = []
    for draft in (None, pair.draft(budget=20)):
        llm = load(pair, draft, kv_overrides=overrides)
        texts.append([token for token, _ in zip(llm.generate(tokens(llm, PROMPT), temp=0.0), range(40))])
    assert texts[0] == texts[1] and ord("1") in texts[1][:-1]


def test_a_grammar_holds_along_accepted_paths(drafted, plain):
    grammar = LlamaGrammar.from_string('root ::= ("01" | "10" | "222") ("," root)?', verbose=False)
    texts = []
    for llm in (plain, drafted):
        answer = llm.create_completion(PROMPT, max_tokens=60, temperature=0.0, grammar=grammar)
        texts.append(answer["choices"][0]["text"])
    assert texts[0] == texts[1]
    assert re.fullmatch(r"((01|10|222)(,|$))+((0|1|22?)?)", texts[1])


def test_a_grammar_that_ends_ends_the_text(drafted, plain):
    grammar = LlamaGrammar.from_string('root ::= "0" [0-3]{7} "!"', verbose=False)
    answer = drafted.create_completion(PROMPT, max_tokens=60, temperature=0.7, grammar=grammar)["choices"][0]
    assert re.fullmatch("0[0-3]{7}!", answer["text"]) and answer["finish_reason"] == "stop"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_json_follows_its_schema(drafted, plain, temperature):
    texts = []
    for llm in (plain, drafted):
        answer = llm.create_chat_completion(
            MESSAGES,
            temperature=temperature,
            seed=11,
            max_tokens=300,
            response_format={"type": "json_object", "schema": SCHEMA},
        )
        texts.append(answer["choices"][0]["message"]["content"])
        jsonschema.validate(json.loads(texts[-1]), SCHEMA)
    assert texts[0] == texts[1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_is_plain_decodings(drafted, plain, stream):
    texts = []
    for llm in (plain, drafted):
        answer = llm.create_chat_completion(MESSAGES, temperature=0.0, max_tokens=50, stream=stream)
        texts.append(text_of(answer, "delta") if stream else answer["choices"][0]["message"]["content"])
    assert texts[0] == texts[1] and len(texts[1]) == 50


def test_the_next_turn_of_a_chat_is_plain_decodings(drafted, plain):
    turns = []
    for llm in (plain, drafted):
        messages = list(MESSAGES)
        for question in ("and on", "more", "again"):
            answer = llm.create_chat_completion(messages, temperature=0.0, max_tokens=30)["choices"][0]["message"]
            messages += [answer, {"role": "user", "content": question}]
        turns.append([message["content"] for message in messages])
    assert turns[0] == turns[1]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_plain_decodings(kept, pair, plain, stream):
    llm = kept(pair, pair.draft(budget=12), logits_all=True)
    both = []
    for one in (plain, llm):
        answer = one.create_completion(PROMPT, max_tokens=40, temperature=0.0, logprobs=4, stream=stream)
        chunks = list(answer) if stream else [answer]
        parts = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
        both.append({key: [x for part in parts for x in part[key]] for key in parts[0]})
    a, b = both
    assert llm.speculative_stats.accepted > 5
    assert a["tokens"] == b["tokens"] and a["text_offset"] == b["text_offset"] and len(b["tokens"]) == 40
    assert b["token_logprobs"] == pytest.approx(a["token_logprobs"], abs=TOLERANCE)
    for x, y in zip(a["top_logprobs"], b["top_logprobs"]):
        assert y == pytest.approx(x, abs=TOLERANCE)


def test_echoed_logprobs_are_plain_decodings(kept, pair, plain):
    llm = kept(pair, pair.draft(budget=12), logits_all=True)
    a, b = (
        one.create_completion(PROMPT, max_tokens=20, temperature=0.0, logprobs=2, echo=True)["choices"][0]
        for one in (plain, llm)
    )
    assert a["text"] == b["text"]
    assert b["logprobs"]["token_logprobs"][1:] == pytest.approx(a["logprobs"]["token_logprobs"][1:], abs=TOLERANCE)


def test_logprobs_without_logits_all_raise_as_in_the_stock_class(drafted):
    with pytest.raises(ValueError, match="logits_all"):
        drafted.create_completion(PROMPT, logprobs=2)


def test_logit_bias(drafted, plain):
    bias = {str(ord("0")): -100.0, str(ord("x")): 8.0}
    texts = [
        llm.create_completion(PROMPT, max_tokens=40, temperature=0.0, logit_bias=bias)["choices"][0]["text"]
        for llm in (plain, drafted)
    ]
    assert texts[0] == texts[1] and "0" not in texts[1]


def test_stopping_criteria(drafted, plain):
    for n in (3, 8, 17):
        criteria = StoppingCriteriaList([lambda ids, logits: len(ids) >= len(PROMPT) + n])
        results = []
        for llm in (plain, drafted):
            llm.reset()
            answer = llm.create_completion(list(PROMPT.encode()), max_tokens=60, temperature=0.0, stopping_criteria=criteria)
            results.append(answer["choices"][0])
        assert results[0] == results[1]


@pytest.mark.parametrize(
    "settings",
    [
        dict(temperature=0.0, repeat_penalty=1.2),
        dict(temperature=0.0, frequency_penalty=0.7, presence_penalty=0.4),
        dict(temperature=0.0, mirostat_mode=2),
        dict(temperature=0.9, repeat_penalty=1.3, frequency_penalty=0.2),
        dict(temperature=1.0, mirostat_mode=1),
        dict(temperature=1.0, mirostat_mode=2, mirostat_tau=2.0, mirostat_eta=0.3),
        dict(temperature=1.0, typical_p=0.6),
        dict(temperature=1.2, min_p=0.2, top_p=1.0),
        dict(temperature=0.7, top_k=2),
        dict(temperature=0.7, top_p=0.5, min_p=0.0),
        dict(temperature=-1.0),
    ],
    ids=str,
)
def test_sampler_settings_do_what_they_do_without_a_drafter(drafted, plain, settings):
    """A seed gives the same random numbers in the same order, so the same text."""
    for seed in (1, 2, 3):
        texts = [
            llm.create_completion(PROMPT, max_tokens=40, seed=seed, **settings)["choices"][0]["text"]
            for llm in (plain, drafted, drafted)
        ]
        assert texts[0] == texts[1] == texts[2]


def test_seeds_give_different_texts(drafted):
    texts = {drafted.create_completion(PROMPT, max_tokens=30, seed=seed)["choices"][0]["text"] for seed in range(8)}
    assert len(texts) > 4


def test_an_empty_prompt(load, pair):
    overrides = {"tokenizer.ggml.add_bos_token": True}
    texts = []
    for draft in (None, pair.draft(budget=12)):
        llm = load(pair, draft, kv_overrides=overrides)
        texts.append(llm.create_completion("", max_tokens=20, temperature=0.0)["choices"][0]["text"])
    assert texts[0] == texts[1]


def test_a_prompt_that_does_not_fit_raises_as_in_the_stock_class(drafted, plain):
    for llm in (plain, drafted):
        with pytest.raises(ValueError, match="exceed context window"):
            llm.create_completion("0" * 600)
    assert drafted.create_completion(PROMPT, max_tokens=3)["usage"]["completion_tokens"] == 3
