"""`Llama.generate` with a drafter keeps the stock generator's contract, however a generation ends."""

import itertools

import numpy as np
import pytest
from same_text import TOLERANCE, assert_same_text, logits_after

from llama_cpp import LogitsProcessorList, StoppingCriteriaList

PROMPT = list(b"the digits: 0123")


def take(generator, n):
    """n tokens; the generator is then closed, perhaps in the middle of an accepted path."""
    tokens = list(itertools.islice(generator, n))
    generator.close()
    return tokens


def greedy(llm, prompt, n, **settings):
    return take(llm.generate(prompt, temp=0.0, **settings), n)


def assert_healthy(llm, plain, prompt=PROMPT):
    """After whatever happened, the next texts are those of a fresh object: going on, with a shared prefix, anew."""
    after = [*prompt, *greedy(plain, prompt, 5)]
    for next_prompt in (after, prompt[:-3] + [49], [50, 49, 48]):
        assert_same_text(plain, next_prompt, greedy(plain, next_prompt, 25), greedy(llm, next_prompt, 25))


def test_every_yield_shows_the_state_that_stock_shows(drafted, plain):
    text = greedy(plain, PROMPT, 40)
    for i, token in enumerate(itertools.islice(drafted.generate(PROMPT, temp=0.0), 40)):
        assert drafted.n_tokens == len(PROMPT) + i
        assert drafted._input_ids.tolist() == PROMPT + text[:i]
        assert token == text[i]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 11])
def test_a_generator_closed_early_leaves_a_consistent_state(drafted, plain, n):
    greedy(drafted, PROMPT, n)
    assert drafted.n_tokens == len(PROMPT) + n - 1
    assert_healthy(drafted, plain)


def test_a_dropped_generator_leaves_a_consistent_state(drafted, plain):
    for token in drafted.generate(PROMPT, temp=0.0):
        break
    assert_healthy(drafted, plain)


def test_reset_false_goes_on_after_what_was_evaluated(drafted, plain):
    a = greedy(plain, PROMPT, 10)
    greedy(drafted, PROMPT, 10)
    n_tokens = drafted.n_tokens
    assert n_tokens == len(PROMPT) + 9
    b = take(drafted.generate([a[-1], 52], temp=0.0, reset=False), 20)
    whole = [*PROMPT, *a, 52]
    assert_same_text(plain, whole, greedy(plain, whole, 20), b)


def test_reset_false_without_tokens_samples_after_the_last_one_again(drafted, plain):
    """As the stock generator does; after a draft tree that token's logits have to be made again."""
    a = greedy(plain, PROMPT, 10)
    greedy(drafted, PROMPT, 10)
    assert_same_text(plain, PROMPT + a[:9], a[9:], take(drafted.generate([], temp=0.0, reset=False), 1))


def test_the_exact_prefix_again_gives_the_same_token_again(drafted, plain):
    a = greedy(plain, PROMPT, 12)
    for n in range(1, 12):
        greedy(drafted, PROMPT, n)
        assert_same_text(plain, PROMPT + a[: n - 1], a[n - 1 :], greedy(drafted, PROMPT + a[: n - 1], 13 - n))


def test_eval_and_sample_work_by_hand_after_a_generation(drafted, plain):
    a = greedy(plain, PROMPT, 10)
    greedy(drafted, PROMPT, 7)
    drafted._sampler = None
    assert drafted.sample(temp=0.0) == a[6]
    drafted.eval(a[6:9])
    drafted._sampler = None
    assert drafted.sample(temp=0.0) == a[9]


def test_tokens_sent_into_the_generator_change_no_text(drafted, plain):
    """They are proposals in the stock class too (which needs logits_all for them)."""
    for llm in (plain, drafted):
        expected = greedy(llm, PROMPT, 20)
        llm.reset()
        generator = llm.generate(PROMPT, temp=0.0)
        text = [next(generator)]
        while len(text) < 20:
            text.append(generator.send([51, 50]))
        generator.close()
        assert_same_text(plain, PROMPT, expected, text)
    assert_healthy(drafted, plain)


def test_an_exception_in_a_logits_processor_is_raised(drafted, plain):
    text = greedy(plain, PROMPT, 12)
    for n in range(1, 12):
        calls = itertools.count(1)

        def fail(input_ids, scores):
            if next(calls) == n:
                raise LookupError(f"call {n}")
            return scores

        generator = drafted.generate(PROMPT, temp=0.0, logits_processor=LogitsProcessorList([fail]))
        got = []
        with pytest.raises(LookupError, match=f"call {n}"):
            for token in generator:
                got.append(token)
        assert got == text[: n - 1]
        assert drafted.n_tokens == len(PROMPT) + len(got)
        assert_healthy(drafted, plain)


def test_an_exception_in_a_logits_processor_is_raised_without_a_drafter(plain):
    def fail(input_ids, scores):
        raise LookupError("no")

    with pytest.raises(LookupError):
        next(plain.generate(PROMPT, logits_processor=LogitsProcessorList([fail])))


@pytest.mark.parametrize("result", [np.zeros(7, dtype=np.single), "text"], ids=["shape", "type"])
def test_a_logits_processor_that_returns_nonsense_raises(drafted, plain, result):
    calls = itertools.count()
    processor = LogitsProcessorList([lambda ids, scores: scores if next(calls) < 4 else result])
    with pytest.raises(ValueError):
        greedy(drafted, PROMPT, 10, logits_processor=processor)
    assert_healthy(drafted, plain)


def test_ctrl_c_in_a_logits_processor_ends_the_generation(drafted, plain):
    calls = itertools.count()

    def interrupted(input_ids, scores):
        if next(calls) == 6:
            raise KeyboardInterrupt
        return scores

    with pytest.raises(KeyboardInterrupt):
        greedy(drafted, PROMPT, 20, logits_processor=LogitsProcessorList([interrupted]))
    assert_healthy(drafted, plain)


def test_an_exception_in_a_stopping_criterion_is_raised(drafted, plain):
    for n in range(1, 9):

        def fail(input_ids, logits):
            if len(input_ids) == len(PROMPT) + n:
                raise LookupError
            return False

        with pytest.raises(LookupError):
            greedy(drafted, PROMPT, 30, stopping_criteria=StoppingCriteriaList([fail]))
        assert drafted.n_tokens == len(PROMPT) + n
        assert_healthy(drafted, plain)


def test_logits_processors_see_the_true_prefix_once_each(drafted, plain):
    seen = []

    def look(input_ids, scores):
        seen.append(input_ids.tolist())
        return scores

    text = greedy(drafted, PROMPT, 40, logits_processor=LogitsProcessorList([look]))
    assert_same_text(plain, PROMPT, greedy(plain, PROMPT, 40), text)
    assert len(seen) >= 40
    whole = PROMPT + text
    for i, prefix in enumerate(seen[:40]):
        assert prefix == whole[: len(PROMPT) + i]


def test_logits_processors_steer_the_text_as_without_a_drafter(drafted, plain):
    def no_repeats(input_ids, scores):
        scores = scores.copy()
        scores[input_ids[-2:]] -= 5.0
        return scores

    texts = [greedy(llm, PROMPT, 40, logits_processor=LogitsProcessorList([no_repeats])) for llm in (plain, drafted)]
    assert texts[0] == texts[1]
    assert all(a != b for a, b in zip(texts[1], texts[1][1:]))


def test_stopping_criteria_see_prefix_and_logits_of_every_token(drafted, plain):
    seen = []

    def stop(input_ids, logits):
        seen.append((input_ids.tolist(), logits.copy()))
        return len(seen) == 30

    text = greedy(drafted, PROMPT, 100, stopping_criteria=StoppingCriteriaList([stop]))
    assert len(text) == 29  # as in the stock class, the token that it stops at is not yielded
    for i, (prefix, logits) in enumerate(seen[:29]):
        assert prefix == PROMPT + text[:i]
        assert logits.argmax() == text[i]
    assert np.abs(seen[20][1] - logits_after(plain, seen[20][0])).max() < TOLERANCE
    assert_healthy(drafted, plain)


def test_generators_may_be_mixed_up(drafted, plain):
    """Two generations on one object disturb each other's text, as in the stock class, and nothing after them."""
    for n in (1, 2, 3, 4):
        first, second = drafted.generate(PROMPT, temp=0.0), drafted.generate([53, 52, 51], temp=0.0)
        for _ in range(n):
            next(first)
        for _ in range(n + 1):
            next(second)
        for _ in range(3):
            next(first), next(second)
        assert_healthy(drafted, plain)
        first.close(), second.close()


def test_a_one_token_prompt(drafted, plain):
    assert_same_text(plain, [48], greedy(plain, [48], 50), greedy(drafted, [48], 50))


def test_a_prompt_longer_than_the_batch(drafted, plain):
    prompt = [48 + i % 7 for i in range(300)]
    assert len(prompt) > 4 * drafted.n_batch
    assert_same_text(plain, prompt, greedy(plain, prompt, 50), greedy(drafted, prompt, 50))
    assert_healthy(drafted, plain)


def test_batches_of_several_physical_batches(load, pair, plain):
    llm = load(pair, pair.draft(budget=12), n_batch=256, n_ubatch=40)
    prompt = [48 + i % 7 for i in range(300)]
    assert_same_text(plain, prompt, greedy(plain, prompt, 50), greedy(llm, prompt, 50))
    usual = load(pair, pair.draft(budget=12))
    greedy(usual, prompt, 50)
    assert usual.speculative_stats.accepted == llm.speculative_stats.accepted  # the features were the same


def test_a_prompt_longer_than_the_drafters_context(load, pair, plain):
    llm = load(pair, pair.draft(budget=12, context=24))
    prompt = [48 + i % 7 for i in range(300)]
    assert_same_text(plain, prompt, greedy(plain, prompt, 150), greedy(llm, prompt, 150))
    assert llm.speculative_stats.accepted > 10
    assert_healthy(llm, plain)


@pytest.mark.parametrize("n_ctx", [256, 300])
@pytest.mark.parametrize("settings", [dict(budget=12), dict(budget=7, mode="chain"), dict()], ids=str)
def test_a_full_context_fails_as_the_stock_class_does(load, pair, n_ctx, settings):
    """300 is no multiple of llama.cpp's padding: the context is then longer than the stock class's own array."""
    ends = []
    for draft in (None, pair.draft(**settings)):
        llm = load(pair, draft, n_ctx=n_ctx)
        prompt = [48 + i % 7 for i in range(n_ctx - 40)]
        text = []
        with pytest.raises((RuntimeError, ValueError)) as error:
            for token in llm.generate(prompt, temp=0.0):
                text.append(token)
        ends.append((text, llm.n_tokens, error.type))
        assert greedy(llm, PROMPT, 5)
    assert ends[0] == ends[1]


def test_completions_up_to_the_full_context(load, pair):
    texts = []
    for draft in (None, pair.draft(budget=12)):
        llm = load(pair, draft, n_ctx=256)
        answer = llm.create_completion("0123" * 50, max_tokens=None, temperature=0.0)
        texts.append((answer["choices"][0]["text"], answer["choices"][0]["finish_reason"], answer["usage"]))
    assert texts[0] == texts[1]
    assert texts[0][1] == "length"


def test_a_shared_prefix_is_not_evaluated_again(drafted, monkeypatch):
    evaluated = []
    stock_eval = type(drafted).eval
    monkeypatch.setattr(type(drafted), "eval", lambda self, tokens: evaluated.append(len(tokens)) or stock_eval(self, tokens))
    text = greedy(drafted, PROMPT, 10)
    assert evaluated == [len(PROMPT)]
    evaluated.clear()
    greedy(drafted, PROMPT + text + [50, 50], 10)
    assert evaluated == [3]  # the last token of the text was not evaluated yet
    evaluated.clear()
    greedy(drafted, PROMPT, 3)
    assert evaluated == [1]


def test_statistics_are_of_the_last_generation(drafted, kept, pair):
    greedy(drafted, PROMPT, 50)
    first = drafted.speculative_stats
    greedy(drafted, PROMPT, 1)
    assert first.tokens >= 49 and drafted.speculative_stats.tokens == 0
    assert set(first.seconds) == {"draft", "build", "verify", "sample", "commit", "other"}
    assert all(value >= 0 for value in first.seconds.values())
    assert first.tokens_per_second == pytest.approx(first.tokens / sum(first.seconds.values()))
    assert kept(pair).speculative_stats is None and kept(pair).last_tree is None


def test_the_last_tree_is_what_the_round_verified(tree):
    generator = tree.generate(PROMPT, temp=0.0)
    next(generator)
    assert tree.last_tree is None
    for _ in range(20):
        before = tree._input_ids.tolist()
        token = next(generator)
        last = tree.last_tree
        assert len(last.tokens) == len(last.parents) == len(last.logprobs) == 13
        assert last.parents[0] == -1 and all(0 <= p < i for i, p in enumerate(last.parents[1:], 1))
        assert last.path[0] == 0 and len(last.path) - len(last.sampled) == last.drafted(len(last.sampled) - 1)
        assert all(last.tokens[node] == token for node, token in zip(last.path[1:], last.sampled))
        assert all(last.parents[b] == a for a, b in zip(last.path, last.path[1:]))
        assert last.tokens[0] in (before + [token]) and token == last.sampled[-1]
    generator.close()


def test_verbose_prints_the_statistics(load, pair, capfd):
    llm = load(pair, pair.draft(budget=4), verbose=True)
    greedy(llm, PROMPT, 5)
    assert "acceptance length" in capfd.readouterr().err
    llm.close()
    load(pair)  # verbose is one setting of the whole process
