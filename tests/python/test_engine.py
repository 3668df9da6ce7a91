"""The engine's binding, where `Llama` alone does not reach."""

import itertools

import gguf
import numpy as np
import pytest
from drafter_models import write_drafter
from models import MASK
from same_text import assert_same_text

import llama_cpp
from llama_cpp import _internals as internals
from llama_dflash.grammars import GrammarError, raise_grammar_error

PROMPT = list(b"the digits: 0123")


def greedy(llm, prompt, n):
    llm._requires_eval = True  # these tests call the engine themselves: the last logits are of a tree
    return list(itertools.islice(llm.generate(prompt, temp=0.0), n))


def test_a_draft_depends_on_the_text_and_on_nothing_else(tree, kept, random_pair):
    llm = kept(random_pair, random_pair.draft(budget=12))
    text = greedy(llm, PROMPT, 40)

    def guesses():
        llm._engine.truncate(llm.n_tokens)
        return llm._engine.logprobs(48, llm.n_tokens, 12, llm._n_vocab)

    greedy(llm, PROMPT, 40)
    n_tokens = llm.n_tokens
    after_rounds = guesses()
    assert np.array_equal(guesses(), after_rounds)
    llm.reset()
    llm.eval([*PROMPT, *text][:n_tokens])
    after_a_batch = guesses()
    assert np.abs(after_a_batch - after_rounds).max() < 1e-2
    llm.reset()
    llm.eval([*PROMPT, *text][1:n_tokens] + [50])
    assert np.abs(guesses() - after_a_batch).max() > 0.1


def test_a_position_is_predicted_from_its_own_mask(load, pair, tmp_path):
    """Layers of weight 0 leave the mask token's embedding as it is: every position's logits are the head's for it."""
    drafter = write_drafter(tmp_path / "drafter.gguf", pair.target, std=0.0)
    llm = load(pair, type(pair.draft())(drafter))
    llm.eval(PROMPT)
    tensors = {t.name: t.data for t in gguf.GGUFReader(str(pair.target)).tensors}
    hidden = tensors["token_embd.weight"][MASK]
    logits = tensors["output.weight"] @ (hidden / np.sqrt((hidden**2).mean() + 1e-6))
    expected = logits - np.log(np.exp(logits).sum())
    for n_positions in (1, 7, 15):
        for root in (48, 200):
            assert np.allclose(llm._engine.logprobs(root, len(PROMPT), n_positions, llm._n_vocab), expected, atol=1e-3)


def test_draft_probabilities_are_normalised_over_the_vocabulary(tree):
    tree.eval(PROMPT)
    logprobs = tree._engine.logprobs(48, len(PROMPT), 15, tree._n_vocab)
    assert np.allclose(np.exp(logprobs.astype(np.float64)).sum(axis=1), 1.0, atol=1e-5)


def test_a_trees_nodes_are_the_most_probable_ones_with_the_drafters_own_probabilities(kept, pair):
    tree = kept(pair, pair.draft(budget=12, calibrated=False))
    tree.eval(PROMPT)
    expected = tree._engine.logprobs(48, len(PROMPT), 12, tree._n_vocab)
    sampler = internals.LlamaSampler()
    sampler.add_greedy()
    _, last = tree._engine.round(sampler.sampler, 48, len(PROMPT), greedy=True, n_max=100)
    depth, score = [0], [0.0]
    for node in range(1, len(last.tokens)):
        parent = last.parents[node]
        depth.append(depth[parent] + 1)
        logprob = expected[depth[node] - 1, last.tokens[node]]
        assert last.logprobs[node] == pytest.approx(logprob, abs=1e-4)
        score.append(score[parent] + logprob)
    assert all(a >= b - 1e-4 for a, b in zip(score, score[1:]))  # best first
    # DDTree: no node outside of the tree is more probable than its last one
    children = {(parent, token) for parent, token in zip(last.parents, last.tokens)}
    for node in range(len(last.tokens)):
        for token in np.argsort(expected[depth[node]])[::-1][:12] if depth[node] < 12 else ():
            if (node, int(token)) not in children:
                assert score[node] + expected[depth[node], token] <= score[-1] + 1e-4
                break


def test_a_grammar_that_gives_up_leaves_a_round_that_can_be_settled(tree, plain):
    """A grammar that does not hold the argmax: `greedy` takes it all the same, and accepting it is an error."""
    text = greedy(plain, PROMPT, 20)
    tree.eval(PROMPT)
    sampler = internals.LlamaSampler()
    sampler.add_grammar(tree._model, llama_cpp.LlamaGrammar.from_string('root ::= "zz"', verbose=False))
    sampler.add_greedy()
    _, last = tree._engine.start(text[0], len(PROMPT), 100)
    tree._engine.next(sampler.sampler, True, last)
    with pytest.raises(GrammarError, match="grammar"):
        raise_grammar_error()
    assert tree._engine.settle() == len(PROMPT) + 1  # the root
    assert_same_text(plain, PROMPT, text, greedy(tree, PROMPT, 20))


def test_a_round_can_be_settled_at_any_token(tree, plain):
    """Afterwards the memory holds the nodes at which tokens were sampled, and no others."""
    text = greedy(plain, PROMPT, 20)
    for n in range(0, 6):
        tree.reset()
        tree.eval(PROMPT)
        sampler = internals.LlamaSampler()
        sampler.add_greedy()
        _, last = tree._engine.start(text[0], len(PROMPT), 100)
        for i in range(n):
            token, goes_on = tree._engine.next(sampler.sampler, False, last)
            assert token == text[i + 1]
            if not goes_on:
                break
        n_in_memory = len(PROMPT) + max(1, len(last.sampled))
        assert tree._engine.settle() == tree._engine.settle() == n_in_memory
        assert llama_cpp.llama_memory_seq_pos_max(tree._ctx.memory, 0) == n_in_memory - 1
        assert_same_text(plain, PROMPT, text, greedy(tree, PROMPT, 20))


def test_a_token_is_asked_for_in_a_round_only(tree):
    tree.eval(PROMPT)
    sampler = internals.LlamaSampler()
    sampler.add_greedy()
    _, last = tree._engine.round(sampler.sampler, 48, len(PROMPT), greedy=True, n_max=100)
    with pytest.raises(RuntimeError, match="no round is going on"):
        tree._engine.next(sampler.sampler, True, last)


def test_a_failing_call_says_why(tree):
    tree.eval(PROMPT)
    with pytest.raises(RuntimeError, match="n_positions is 99, expected 1 to 15"):
        tree._engine.logprobs(48, len(PROMPT), 99, tree._n_vocab)
