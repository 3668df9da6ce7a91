"""Makes a target write a fixture's text, which goes along with some drafts and leaves others."""

import numpy as np

import llama_dflash  # noqa: F401  # says where llama_cpp comes from

from llama_cpp import LogitsProcessorList
from llama_cpp import _internals as internals


def write_it(text):
    """A logits processor that makes a target go on with a text, from whatever prefix of it."""

    def process(input_ids, scores):
        scores[:] = -np.inf
        scores[text[len(input_ids)]] = 0.0
        return scores

    return LogitsProcessorList([process])


def rounds_after(fixture, start):
    end = next((later for later in fixture.starts if later > start), len(fixture.tokens))
    return [r for r in fixture.rounds if start <= r.n_past < end]


def follow(llm, fixture, start):
    """Yields every round of the fixture when it is about to be drafted, and then the tree that was."""
    written = llm.generate(fixture.tokens[:start], temp=0.0, logits_processor=write_it(fixture.tokens))
    n_past = start
    assert next(written) == fixture.tokens[start]
    for round in rounds_after(fixture, start):
        assert round.n_past == n_past
        yield round, None
        next(written)
        tree = llm.last_tree
        n_accepted = accepted(tree, fixture.tokens[n_past + 1 :])
        for expected in fixture.tokens[n_past + 2 : n_past + n_accepted + 2]:
            assert next(written) == expected
        assert len(tree.path) == n_accepted + 1
        yield round, tree
        n_past += n_accepted + 1
    written.close()


def accepted(tree, text):
    """How many of a text's tokens are in the tree, from the root down."""
    node = 0
    for n_found, token in enumerate(text):
        children = [i for i, parent in enumerate(tree.parents) if parent == node and tree.tokens[i] == token]
        if not children:
            return n_found
        node = children[0]
    return len(text)


def paths_of(tree):
    """{drafted tokens down to a node: log-probability of the last one}."""
    paths = [()]
    for parent, token in zip(tree.parents[1:], tree.tokens[1:]):
        paths.append((*paths[parent], token))
    return dict(zip(paths[1:], tree.logprobs[1:]))


def draft(llm, fixture, round):
    """The tree of one round."""
    llm.reset()
    llm.eval(fixture.tokens[: round.n_past])
    return draft_on(llm, fixture.tokens[round.n_past])


def draft_on(llm, root):
    """The tree of a round after the text in memory, which stays what `llm` knows of it."""
    sampler = internals.LlamaSampler()
    sampler.add_greedy()
    status, tree = llm._engine.round(sampler.sampler, root, llm.n_tokens, greedy=True, n_max=100)
    assert status == 0
    return tree
