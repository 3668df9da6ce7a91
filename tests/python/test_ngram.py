"""Drafts without a model: `draft_model="ngram"`."""

import itertools
import pickle

import drafter_models
import pytest
from architectures import RECURRENT, WINDOW, WITH_TREES, write_architecture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from same_text import TOLERANCE, assert_same_text, measured_tolerance

from conftest import SETTINGS, Pair, write_pair
from llama_dflash import Llama, NGramDraft

PROMPT = list(b"the digits: 0123")
LONG = PROMPT + [48 + i % 5 for i in range(90)]
WAYS = {
    "tree": NGramDraft(budget=12),
    "chain": NGramDraft(budget=7, mode="chain"),
    "auto": "ngram",
    "corpus": NGramDraft(budget=12, corpus=["0123401234", tuple(PROMPT), "something else"], remember=True),
}


def greedy(llm, prompt, n, **settings):
    return list(itertools.islice(llm.generate(prompt, temp=0.0, **settings), n))


def proposed(llm, tokens):
    """The tree after `tokens`, as pairs of token and parent."""
    llm.reset()
    greedy(llm, tokens, 2)
    tree = llm.last_tree
    return list(zip(tree.tokens, tree.parents))


@pytest.fixture(params=WAYS)
def ngram(request, kept, pair):
    return kept(pair, WAYS[request.param])


def test_the_text_is_plain_decodings(ngram, plain):
    for prompt in (PROMPT, LONG, [50]):
        plain.reset(), ngram.reset()
        assert_same_text(plain, prompt, greedy(plain, prompt, 100), greedy(ngram, prompt, 100))


def test_text_that_repeats_takes_few_forward_passes(kept, pair, plain):
    llm = kept(pair, WAYS["tree"])
    assert_same_text(plain, LONG, greedy(plain, LONG, 100), greedy(llm, LONG, 100))
    stats = llm.speculative_stats
    assert stats.accepted > 40 and stats.tokens / stats.rounds > 2


def test_sampling_with_a_seed_is_plain_decodings_too(ngram, plain):
    chosen = dict(temp=0.8, top_k=20, top_p=0.9)
    for llm in (plain, ngram):
        llm.set_seed(5)
    texts = [list(itertools.islice(llm.generate(LONG, **chosen), 60)) for llm in (plain, ngram)]
    assert texts[0] == texts[1]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_happens_between_two_tokens_the_text_is_plain_decodings(ngram, plain, data):
    """Texts that are cut back, gone on with, saved, loaded and forgotten."""
    ngram.reset()
    text = data.draw(st.lists(st.integers(48, 57), min_size=1, max_size=30), label="prompt")
    states = []
    for _ in range(data.draw(st.integers(1, 5))):
        text = text + greedy(ngram, text, data.draw(st.integers(1, 20), label="tokens"))
        action = data.draw(st.sampled_from(["cut", "given", "save", "load", "reset", "go on"]), label="action")
        if action == "cut":
            text = text[: data.draw(st.integers(1, len(text)))]
        elif action == "given":
            text = text + data.draw(st.lists(st.integers(48, 57), max_size=10))
        elif action == "save":
            states.append((list(text), ngram.save_state()))
        elif action == "load" and states:
            text, state = data.draw(st.sampled_from(states))
            ngram.load_state(state)
        elif action == "reset":
            ngram.reset()
    plain.reset()
    assert_same_text(plain, text, greedy(plain, text, 12), greedy(ngram, text, 12))


@pytest.mark.parametrize("arch", ["qwen35", "qwen3next"])
def test_hybrids_draft_too(kept, tmp_path_factory, arch):
    pair = write_pair(tmp_path_factory.mktemp("hybrid"), arch, 8)
    plain, llm = kept(pair, logits_all=True), kept(pair, NGramDraft(budget=12))
    assert_same_text(plain, LONG, greedy(plain, LONG, 80), greedy(llm, LONG, 80))
    assert llm.speculative_stats.nodes > 20


@pytest.mark.parametrize("name", WITH_TREES)
def test_every_architecture_that_holds_trees(tmp_path, load, name):
    target = write_architecture(tmp_path / f"{name}.gguf", name, 0)
    drafter_models.make_predictable(target)
    pair = Pair(target, target)
    prompt = list(b"the digits, and more than a window of them: 01230123")
    assert len(prompt) > 2 * WINDOW
    plain, llm = load(pair, logits_all=True), load(pair, NGramDraft(budget=12))
    a, b = greedy(plain, prompt, 40), greedy(llm, prompt, 40)
    assert llm.speculative_stats.nodes > 12
    assert_same_text(plain, prompt, a, b, max(TOLERANCE, measured_tolerance(plain, [*prompt, *a])))


@pytest.mark.parametrize("name", RECURRENT[:1])
def test_other_recurrent_layers_are_refused_with_the_reason(tmp_path, load, name):
    target = write_architecture(tmp_path / f"{name}.gguf", name)
    with pytest.raises(ValueError, match="recurrent layers of .* targets can't compute draft trees"):
        load(Pair(target, target), "ngram")


# ---------------------------------------------------------------- what is drafted


def test_a_state_brings_the_text_along(load, pair):
    llm, other = load(pair, WAYS["tree"]), load(pair, WAYS["tree"])
    greedy(llm, LONG, 10)
    state = pickle.loads(pickle.dumps(llm.save_state()))
    other.load_state(state)
    for each in (llm, other):
        each._engine.reset_stats()
    assert greedy(other, LONG, 30) == greedy(llm, LONG, 30)
    assert other.speculative_stats.nodes == llm.speculative_stats.nodes > 20


def test_a_state_without_a_drafters_memory_will_do(load, pair, plain):
    saver, llm = load(pair), load(pair, WAYS["tree"])
    greedy(saver, LONG, 10)
    llm.load_state(saver.save_state())
    assert_same_text(plain, LONG, greedy(plain, LONG, 30), greedy(llm, LONG, 30))


def test_a_damaged_state_is_forgotten_and_harms_nothing(load, pair, plain):
    llm = load(pair, WAYS["tree"])
    greedy(llm, LONG, 10)
    state = llm.save_state()
    for damaged in (b"", b"x" * 3, state.draft_state[:-1], state.draft_state[:8] + b"\xff" * (len(state.draft_state) - 8)):
        state.draft_state = damaged
        llm.load_state(state)
        assert_same_text(plain, LONG, greedy(plain, LONG, 30), greedy(llm, LONG, 30))


def test_a_corpus_is_drafted_from_and_shared_by_all_texts(load, pair):
    unseen = list(b"abcdefgh")
    alone = load(pair, NGramDraft(budget=12))
    first = greedy(alone, unseen, 1)[0]
    corpus = [*unseen, first, 60, 61, 62]
    with_corpus = load(pair, NGramDraft(budget=12, corpus=[corpus]))
    for _ in range(2):
        assert [token for token, _ in proposed(with_corpus, unseen)][:4] == [first, 60, 61, 62]
    assert [token for token, _ in proposed(alone, unseen)][:2] != [first, 60]


def test_earlier_answers_are_drafted_from_if_asked_for(load, pair):
    once, remembering = load(pair, NGramDraft(budget=12)), load(pair, NGramDraft(budget=12, remember=True))
    used = []
    for llm in (once, remembering):
        for _ in range(2):
            llm.reset()
            greedy(llm, list(b"something about which nothing is known"), 25)
            used.append(llm.speculative_stats.rounds)
    assert used[0] == used[1] == used[2] > used[3]


def test_a_corpus_may_be_in_files(load, pair, tmp_path):
    (tmp_path / "text.txt").write_text("abcdefgh012")
    draft = NGramDraft(budget=12, corpus=[tmp_path / "text.txt"])
    llm = load(pair, draft)
    assert llm.draft_model is draft
    assert len(proposed(llm, list(b"defgh"))) > 1


def test_a_pickled_llama_drafts_as_before(pair):
    llm = Llama(str(pair.target), draft_model="ngram", **SETTINGS)
    copy = pickle.loads(pickle.dumps(llm))
    assert copy.draft_model == NGramDraft() and greedy(copy, LONG, 10) == greedy(llm, LONG, 10)
    llm.close(), copy.close()


# ---------------------------------------------------------------- settings


def test_the_word_is_the_default_settings(load, pair):
    assert load(pair, "ngram").draft_model == NGramDraft() == NGramDraft(budget="auto", mode="tree", corpus=(), remember=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(budget=0), "NGramDraft: budget is 0, expected"),
        (dict(mode="forest"), "NGramDraft: mode is 'forest', expected"),
        (dict(remember=3), "NGramDraft: remember is 3, expected True or False"),
        (dict(corpus="a text"), "NGramDraft: corpus is 'a text', expected a list of texts"),
        (dict(corpus=[1, 2]), r"NGramDraft: corpus is \[1, 2\], expected a list whose items are"),
        (dict(corpus=[[1, -2]]), "NGramDraft: corpus is"),
        (dict(device_outputs="yes"), "NGramDraft: device_outputs is 'yes', expected"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_an_error_that_names_it(given, message):
    with pytest.raises(ValueError, match=message):
        NGramDraft(**given)


def test_a_corpus_that_can_not_be_read_or_used_is_an_error(load, pair, tmp_path):
    with pytest.raises(ValueError, match="NGramDraft: corpus: .*missing.txt can't be read"):
        load(pair, NGramDraft(corpus=[tmp_path / "missing.txt"]))
    with pytest.raises(ValueError, match="text 1 of the n-gram drafter's corpus holds token 99999, the vocabulary has 0 to"):
        load(pair, NGramDraft(corpus=[[1, 2], [3, 99999]]))
