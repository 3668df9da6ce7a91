"""Grammars that are wrong or too much are exceptions; what is left of one in a copy of its sampler is the same grammar."""

import ctypes
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_dflash.grammars import GrammarError, check_grammar, raise_grammar_error
from llama_dflash.json_schemas import repetition

import llama_cpp
from llama_cpp import LlamaGrammar, _internals

PROMPT = "the digits: 0123"
WRONG = [
    ("root ::= (", "expecting '\\)'"),
    ('root ::= root "a" | "b"', "left recursion"),
    ('root ::= a root "x" | "y"\na ::= b\nb ::= ""', "left recursion"),
    ('a ::= "b"', "no rule 'root'"),
    ("root ::= a", "'a'"),
    ('root ::= "a"{100000}', "repetitions"),
    ("root ::= " + '"a"{2000} ' * 2000, "repetitions make more than"),
    ("root ::= " + "(" * 100_000, "nested deeper"),
    ("root ::= [" + "a" * 2_000_000 + "]", "more than 1048576 elements"),
    ('root ::= "a"\0', "zero byte"),
    ('root ::= "\ud800"', "no valid Unicode"),
    ("root ::= <no-such-token>", "invalid token"),
    (" ", "no rules"),
]
HOPELESS = [
    ('root ::= s\ns ::= [0-9] s a | [0-9] s b | [0-9]\na ::= "x"\nb ::= "y"', "too ambiguous"),
    ("root ::= [0-9] <[999999]>", "no token of the model's vocabulary"),
    ("root ::= a\na ::= b\nb ::= a", "nothing goes on"),
]


@pytest.fixture(params=["plain", "drafted"])
def llm(request, kept, pair):
    return kept(pair, pair.draft(budget=8) if request.param == "drafted" else None)


def complete(llm, grammar, **request):
    grammar = None if grammar is None else LlamaGrammar.from_string(grammar, verbose=False)
    return llm.create_completion(PROMPT, temperature=0, max_tokens=40, grammar=grammar, **request)


@pytest.mark.parametrize("grammar, said", WRONG)
def test_a_wrong_grammar_is_a_value_error(llm, grammar, said):
    before = complete(llm, None)["choices"][0]["text"]
    with pytest.raises(ValueError, match=said):
        complete(llm, grammar)
    with pytest.raises(ValueError, match=said):
        next(complete(llm, grammar, stream=True))
    assert complete(llm, None)["choices"][0]["text"] == before


@pytest.mark.parametrize("grammar, said", HOPELESS)
def test_a_grammar_that_nobody_can_follow_is_an_error_when_that_is_seen(llm, grammar, said):
    before = complete(llm, None)["choices"][0]["text"]
    with pytest.raises(GrammarError, match=said):
        complete(llm, grammar)
    assert complete(llm, None)["choices"][0]["text"] == before


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= (a|a|a|a)*\na ::= [0-9] | [0-9]",
        'root ::= ((([0-9]?)*)?)* "."',
        "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1} | r{i + 1}" for i in range(60)) + "\nr60 ::= [0-9]+",
        "root ::= [0-9]{38}" + ' | "word"' * 3000,
        "root ::= " + "(" * 250 + "[0-9]" + ")*" * 250,
    ],
)
def test_an_odd_grammar_is_followed(llm, grammar):
    assert complete(llm, grammar)["choices"][0]["text"].isdigit()


def test_another_error_of_a_sampler_is_not_taken_for_this_ones(llm):
    vocab = llm._model.vocab
    assert not llama_cpp.llama_sampler_init_grammar(vocab, b"root ::= (", b"root")
    check_grammar(LlamaGrammar.from_string('root ::= "a"'), vocab)
    raise_grammar_error()


# ---------------------------------------------------------------- copies of samplers


def allowed(sampler, n_vocab):
    """The tokens that a sampler lets through."""
    data = (llama_cpp.llama_token_data * n_vocab)(*[(i, 0.0, 0.0) for i in range(n_vocab)])
    array = llama_cpp.llama_token_data_array(data=data, size=n_vocab, selected=-1, sorted=False)
    llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
    return {data[i].id for i in range(n_vocab) if data[i].logit > -np.inf}


ITEMS = st.recursive(
    st.sampled_from(['"a"', '"ab"', "[a-c]", "[^a]", ".", '"é"', '"0" "1"']),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2,3}"])).map(lambda p: f"({p[0]}){p[1]}"),
        st.lists(inner, min_size=2, max_size=3).map(lambda p: "(" + " | ".join(p) + ")"),
        st.lists(inner, min_size=2, max_size=3).map(" ".join),
    ),
    max_leaves=8,
)


class Sampler:
    """A chain of nothing but a grammar."""

    def __init__(self, llm, grammar):
        self._chain, self._n_vocab = _internals.LlamaSampler(), llm.n_vocab()
        self._chain.add_grammar(llm._model, LlamaGrammar.from_string(grammar))

    def allowed(self):
        return allowed(self._chain.sampler, self._n_vocab)

    def accept(self, token):
        self._chain.accept(token)

    def copy(self):
        copy = Sampler.__new__(Sampler)
        copy._chain, copy._n_vocab = self._chain.clone(), self._n_vocab
        return copy

    def reset(self):
        self._chain.reset()

    def close(self):
        self._chain.close()


MANY = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


def draw_token(data, llm, tokens):
    return data.draw(st.sampled_from(sorted(tokens))) if tokens - {llm.token_eos()} else None


@given(ITEMS, st.data())
@MANY
def test_a_copy_of_a_grammars_sampler_goes_on_as_the_original(plain, item, data):
    original = Sampler(plain, f"root ::= {item}")
    first = original.allowed()
    for _ in range(data.draw(st.integers(0, 4))):
        token = draw_token(data, plain, original.allowed() - {plain.token_eos()})
        if token is None:
            break
        original.accept(token)
    copy, expected = original.copy(), original.allowed()
    token = draw_token(data, plain, expected - {plain.token_eos()})
    if token is not None:
        original.accept(token)
    after = original.allowed()
    original.close()
    assert copy.allowed() == expected, "whatever became of the original"
    if token is not None:
        copy.accept(token)
        assert copy.allowed() == after
    copy.reset()
    assert copy.allowed() == first
    copy.close()
    raise_grammar_error()


# ---------------------------------------------------------------- JSON schemas


@pytest.mark.parametrize("least, most", [(0, 0), (0, 1), (1, 1), (2, 4), (0, None), (3, None), (0, 2500), (2100, 2300), (2500, None)])
@pytest.mark.parametrize("separator", [None, '","'])
def test_a_repetition_takes_as_many_items_as_it_says(plain, least, most, separator):
    llm = plain
    rule = repetition("item", least, most, separator_rule=separator)
    grammar = f'root ::= {rule} "."\nitem ::= "x"'.encode()
    item, end, comma = (llm.tokenize(text, add_bos=False)[0] for text in (b"x", b".", b","))
    counts = {n for edge in (least, most if most is not None else least + 3) for n in (edge - 1, edge, edge + 1) if n >= 0}
    for n in counts:
        sampler = llama_cpp.llama_sampler_init_grammar(llm._model.vocab, grammar, b"root")
        for i in range(n):
            for token in [comma, item] if separator and i else [item]:
                llama_cpp.llama_sampler_accept(sampler, token)
        llama_cpp.llama_sampler_accept(sampler, end)
        wrong = llama_cpp.llama_cpp._lib.llama_grammar_take_error() is not None
        llama_cpp.llama_sampler_free(sampler)
        assert wrong == (n < least or (most is not None and n > most)), n


@pytest.mark.parametrize("value", ["a\\b", "\b\f", "é\n\t", 'say "x"', "\\", ["\\d", {"\\": "é"}], 1.5, None])
def test_a_constant_of_a_schema_is_written_as_it_is(llm, value):
    grammar = LlamaGrammar.from_json_schema(json.dumps({"const": value}), verbose=False)
    text = llm.create_completion(PROMPT, temperature=0, max_tokens=60, grammar=grammar)["choices"][0]["text"]
    assert json.loads(text) == value
