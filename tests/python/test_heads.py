"""DSpark and DFlash2 drafters: a branch is scored by the token that it really continues.

The expected trees come from the weights in the GGUF file and a search over every branch.
"""

import heapq
import itertools

import gguf
import numpy as np
import pytest
from conftest import Pair
from drafter_models import FAVOURITES, make_predictable, write_drafter
from models import MASK, N_VOCAB, write_hybrid, write_target
from same_text import assert_same_text
from upstream_block import UpstreamBlock, features

from llama_cpp import _internals as internals

PROMPT = list(b"the digits: 0123")
ROOT = 52
HEADS = ["markov", "selector"]


def anchor(value):
    return lambda w: w.add_bool("dflash.sample_from_anchor", value)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """Random tokens, no two of which are equally probable."""
    return write_target(tmp_path_factory.mktemp("heads") / "target.gguf", seed=3)


@pytest.fixture
def loaded(load, target, tmp_path):
    """A Llama with a drafter of random weights, after the prompt, and the drafter's tensors."""

    def get(*, budget=20, mode="tree", **settings):
        drafter = write_drafter(tmp_path / "drafter.gguf", target, **settings)
        pair = Pair(target, drafter)
        llm = load(pair, pair.draft(budget=budget, mode=mode))
        llm.eval(PROMPT)
        tensors = {t.name: np.array(t.data) for path in (target, drafter) for t in gguf.GGUFReader(str(path)).tensors}
        return llm, tensors, drafter

    return get


def draft(llm, root=ROOT, n_max=100):
    """The tree of one round after the prompt."""
    sampler = internals.LlamaSampler()
    sampler.add_greedy()
    status, tree = llm._engine.round(sampler.sampler, root, len(PROMPT), greedy=True, n_max=n_max)
    assert status == 0
    return tree


def log_softmax(x):
    x = np.asarray(x, dtype=np.float64)
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def best_branches(children, root, n_positions, budget):
    """The most probable paths of all, as {path: log-probability of its last token}, best first.

    children: (depth, parent) -> tokens and their log-probabilities, all of them.
    """
    found, order = {}, itertools.count()
    queue = [(0.0, next(order), (root,), 0.0)]
    while queue and len(found) <= budget:
        score, _, path, logprob = heapq.heappop(queue)
        found[path[1:]] = logprob
        if len(path) <= n_positions:
            for token, given_parent in zip(*children(len(path), path[-1])):
                if np.isfinite(given_parent):
                    heapq.heappush(queue, (score - given_parent, next(order), (*path, int(token)), given_parent))
    return found


def branches(tree):
    """{path: log-probability of its last token} of an engine's tree, in its order."""
    paths = [()]
    for parent, token in zip(tree.parents[1:], tree.tokens[1:]):
        paths.append((*paths[parent], token))
    assert len(set(paths)) == len(paths)
    return dict(zip(paths, tree.logprobs))


def assert_same_tree(tree, expected):
    found = branches(tree)
    assert len(found) == len(expected) > 5

    def score(path, of):
        return sum(of[path[: i + 1]] for i in range(len(path)))

    for path, logprob in found.items():
        if path in expected:
            assert logprob == pytest.approx(expected[path], abs=2e-4)
    ours = [score(path, found) for path in found]
    assert ours == sorted(ours, reverse=True)
    theirs = [score(path, expected) for path in expected]
    assert np.allclose(ours, theirs, atol=1e-3)
    worst = theirs[-1] + 1e-3  # only branches as good as the last one may be others
    assert {p for p in expected if score(p, expected) > worst} <= set(found)


def hidden_of(tensors, token):
    """What layers of weight 0 make of a token's embedding."""
    x = tensors["token_embd.weight"][token].astype(np.float64)
    return x / np.sqrt((x**2).mean() + 1e-6)


def markov_children(tensors, base, ids=None):
    """base: the logits [n_positions, n_vocab] without the head."""
    w1, w2 = (tensors[f"markov_w{i}.weight"].astype(np.float64) for i in (1, 2))
    ids = np.arange(N_VOCAB) if ids is None else np.array(ids)
    return lambda depth, parent: (ids, log_softmax(base[depth - 1][ids] + w2 @ w1[parent]))


@pytest.mark.parametrize("budget", [1, 6, 20, 60])
@pytest.mark.parametrize("from_anchor", [True, False])
@pytest.mark.parametrize("reduced", [None, [300, 48, 7, 49, 50, 51, 120, 31]], ids=["whole", "reduced"])
def test_a_markov_heads_tree_is_that_of_its_weights(loaded, budget, from_anchor, reduced):
    """Layers of weight 0, so that the logits without the head are known as well."""
    llm, tensors, _ = loaded(
        head="markov", head_std=0.8, std=0.0, reduced=reduced, budget=budget, block_size=6, more=anchor(from_anchor)
    )
    n_positions = 6 if from_anchor else 5
    first = hidden_of(tensors, ROOT if from_anchor else MASK)
    base = np.stack([first] + [hidden_of(tensors, MASK)] * (n_positions - 1)) @ tensors["output.weight"].T
    if reduced is not None:
        assert tensors["output.weight"].shape[0] == len(reduced) and not tensors["output.weight"].any()
        base = np.zeros((n_positions, N_VOCAB))
    else:
        ours = llm._engine.logprobs(ROOT, len(PROMPT), n_positions, N_VOCAB)
        assert np.allclose(ours, [log_softmax(row) for row in base], atol=1e-3)
    expected = best_branches(markov_children(tensors, base, reduced), ROOT, n_positions, budget)
    if budget > 5:
        assert_same_tree(draft(llm), expected)
    else:
        assert list(branches(draft(llm))) == list(expected)


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q4_0"])
def test_a_markov_head_may_be_quantised(loaded, load, target, tmp_path, kind):
    """With the weights as they are after quantising, the probabilities are those of the F32 head but for rounding of the
    product, which quantises the parents' rows too."""
    _, tensors, _ = loaded(head="markov", head_std=0.8, std=0.05, head_rank=32)
    quantised = write_drafter(
        tmp_path / "q.gguf", target, head="markov", head_std=0.8, std=0.05, head_rank=32, head_type=kind
    )
    pair = Pair(target, quantised)
    llm = load(pair, pair.draft(budget=30))
    llm.eval(PROMPT)
    for t in gguf.GGUFReader(str(quantised)).tensors:
        if t.name.startswith("markov"):
            assert t.tensor_type.name.lower() == kind
            tensors[t.name] = gguf.dequantize(t.data, t.tensor_type)
    base = llm._engine.logprobs(ROOT, len(PROMPT), 16, N_VOCAB)
    children = markov_children(tensors, base)
    tree, paths = draft(llm), [()]
    for node in range(1, len(tree.tokens)):
        parent = tree.parents[node]
        paths.append((*paths[parent], tree.tokens[node]))
        logprob = children(len(paths[node]), tree.tokens[parent])[1][tree.tokens[node]]
        assert tree.logprobs[node] == pytest.approx(logprob, abs=0.05)


@pytest.mark.parametrize("budget", [6, 20, 60])
@pytest.mark.parametrize("std", [0.1, 0.3])
def test_a_markov_heads_tree_with_layers_at_work(loaded, budget, std):
    llm, tensors, _ = loaded(head="markov", head_std=0.5, std=std, budget=budget, block_size=8)
    n_positions = min(8, budget)  # a tree goes no deeper, and the block is then shorter
    base = llm._engine.logprobs(ROOT, len(PROMPT), n_positions, N_VOCAB)
    assert np.abs(base[1] - base[2]).max() > 1e-3
    assert_same_tree(draft(llm), best_branches(markov_children(tensors, base), ROOT, n_positions, budget))


@pytest.mark.parametrize("budget", [6, 20, 60])
def test_a_markov_head_of_zeros_leaves_the_plain_drafters_tree(loaded, budget):
    """The weights are those of the plain drafter of the same seed, and the search is another one: level by level."""
    plain = draft(loaded(std=0.2, budget=budget)[0])
    with_head = draft(loaded(std=0.2, budget=budget, head="markov", head_std=0.0, more=anchor(False))[0])
    assert with_head == plain


def selector_children(tensors, top_k, n_positions):
    """For layers of weight 0: every position has the mask token's own hidden state and candidates."""
    hidden = hidden_of(tensors, MASK)
    logits = tensors["output.weight"] @ hidden
    candidates = np.argsort(logits)[::-1][:top_k]
    mass = np.log(np.exp(log_softmax(logits))[candidates].sum())
    gate = tensors["selector_hidden.weight"] @ hidden
    before, after = tensors["selector_predecessor.weight"], tensors["selector_successor.weight"]

    def children(depth, parent):
        scores = logits[candidates] + after[candidates] @ (before[parent] * gate)
        return candidates, mass + log_softmax(scores)

    return children


@pytest.mark.parametrize("budget", [6, 20, 60])
@pytest.mark.parametrize("top_k", [2, 5, 7])
def test_a_selectors_tree_is_that_of_its_weights(loaded, budget, top_k):
    llm, tensors, _ = loaded(head="selector", head_std=0.6, std=0.0, top_k=top_k, budget=budget, block_size=7)
    expected = best_branches(selector_children(tensors, top_k, 6), ROOT, 6, budget)
    assert_same_tree(draft(llm), expected)


def lattice_children(block, base, top_k, first_row):
    """As the selector's graph in llama.cpp left it: candidates and their scores by the rank of the one before."""
    rows = block.nextn[first_row:]

    def children(depth, parent):
        row = rows[depth - 1]
        tokens = row[:top_k].astype(int)
        before = [] if depth == 1 else rows[depth - 2][:top_k].astype(int).tolist()
        scores = row[top_k : top_k + top_k**2].reshape(top_k, top_k)[before.index(parent) if before else 0]
        return tokens, log_softmax(scores) + np.log(np.exp(base[depth - 1][tokens].astype(np.float64)).sum())

    return children


@pytest.mark.parametrize("budget", [6, 20, 60])
def test_a_selectors_tree_with_layers_at_work(loaded, budget):
    llm, _, drafter = loaded(head="selector", head_std=0.5, std=0.2, budget=budget, block_size=8)
    n_positions = min(7, budget)
    block = UpstreamBlock(llm, drafter, features(llm, len(PROMPT), (1, 2)), ROOT, MASK, 8)
    base = llm._engine.logprobs(ROOT, len(PROMPT), n_positions, N_VOCAB)
    assert np.abs(base[1] - base[2]).max() > 1e-3
    assert_same_tree(draft(llm), best_branches(lattice_children(block, base, 5, 1), ROOT, n_positions, budget))


def upstreams_chain(block, head, first_row, top_k=5):
    if head == "markov":
        return block.logits[first_row:].argmax(axis=1).tolist()
    tokens, rank = [], 0
    for row in block.nextn[first_row:]:
        scores = row[top_k : top_k + top_k**2].reshape(top_k, top_k)
        rank = int(scores[rank].argmax())
        tokens.append(int(row[rank]))
    return tokens


@pytest.mark.parametrize(
    ("head", "more", "first_row"),
    [
        ("markov", None, 0),
        ("markov", anchor(True), 0),
        ("markov", anchor(False), 1),
        ("selector", None, 1),
    ],
    ids=["markov", "from the anchor", "bonus anchor", "selector"],
)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_chain_is_llama_cpps_own(loaded, head, more, first_row, causal, seed):
    """Token for token what the head in llama.cpp's graph chains, the highest score after the one before."""

    def settings(w):
        if more:
            more(w)
        if causal:
            w.add_bool("dflash.attention.causal", True)

    llm, _, drafter = loaded(
        head=head, head_std=1.0, std=0.2, budget=15, mode="chain", seed=seed, block_size=12, more=settings
    )
    block = UpstreamBlock(llm, drafter, features(llm, len(PROMPT), (1, 2)), ROOT, MASK, 12, causal=causal)
    expected = upstreams_chain(block, head, first_row)
    tree = draft(llm)
    assert list(tree.tokens[1:]) == expected and list(tree.parents) == list(range(-1, len(expected)))
    assert len(set(expected)) > 2


def test_what_the_metadata_says_of_causal_attention_changes_the_draft(loaded):
    bases = []
    for causal in (False, True):
        llm, _, _ = loaded(head="markov", std=0.3, block_size=8, more=lambda w: w.add_bool("dflash.attention.causal", causal))
        bases.append(llm._engine.logprobs(ROOT, len(PROMPT), 8, N_VOCAB))
    assert np.abs(bases[0] - bases[1]).max() > 1e-2


# ---------------------------------------------------------------- at work


@pytest.fixture(scope="module", params=[("markov", "llama"), ("selector", "llama"), ("markov", "qwen35"), ("selector", "qwen35")], ids="-".join)
def headed_pair(request, tmp_path_factory):
    """Text of digits, of which a drafter guesses a good part."""
    head, arch = request.param
    folder = tmp_path_factory.mktemp("headed")
    target = (write_hybrid if arch == "qwen35" else write_target)(folder / "target.gguf", arch, seed=5)
    make_predictable(target)
    return Pair(target, write_drafter(folder / "drafter.gguf", target, head=head, head_std=0.1))


FIXED = [dict(budget=4), dict(budget=12), dict(budget=32), dict(budget=7, mode="chain")]


@pytest.mark.parametrize("settings", [*FIXED, dict(), dict(budget=12, device_outputs=True)], ids=str)
def test_greedy_text_is_plain_decodings(kept, headed_pair, settings):
    plain = kept(headed_pair, logits_all=True)
    llm = kept(headed_pair, headed_pair.draft(**settings))
    a, b = (list(itertools.islice(one.generate(PROMPT, temp=0.0), 80)) for one in (plain, llm))
    assert_same_text(plain, PROMPT, a, b)
    assert not settings or llm.speculative_stats.accepted > 10
    if settings.get("budget") == 32:
        assert max(np.bincount(np.array(llm.last_tree.parents[1:]))) > 1, "a tree, or this test shows nothing"


def test_sampling_with_a_seed_is_repeatable(kept, headed_pair):
    llm = kept(headed_pair, headed_pair.draft(budget=12))
    texts = []
    for _ in range(2):
        llm.set_seed(11)
        texts.append(list(itertools.islice(llm.generate(PROMPT, temp=0.9), 50)))
    assert texts[0] == texts[1] and set(texts[0]) & set(FAVOURITES)


def test_a_saved_state_drafts_the_same_tree(kept, headed_pair):
    llm = kept(headed_pair, headed_pair.draft(budget=20, calibrated=False))
    llm.eval(PROMPT)
    state = llm.save_state()
    first = draft(llm)
    llm.reset()
    llm.eval(list(b"something else"))
    llm.load_state(state)
    again = draft(llm)
    assert (list(first.tokens), list(first.parents)) == (list(again.tokens), list(again.parents))
    assert np.allclose(first.logprobs, again.logprobs, atol=1e-4)


def test_the_trees_are_the_same_wherever_features_and_outputs_are(load, headed_pair):
    trees = []
    for device_outputs in (False, True):
        llm = load(headed_pair, headed_pair.draft(budget=20, device_outputs=device_outputs))
        llm.eval(PROMPT)
        trees.append(draft(llm))
    assert list(trees[0].tokens) == list(trees[1].tokens) and list(trees[0].parents) == list(trees[1].parents)


def test_no_more_tokens_are_drafted_than_wanted(kept, headed_pair):
    llm = kept(headed_pair, headed_pair.draft(budget=20))
    for n_max in (1, 2, 3):
        llm.reset()
        llm.eval(PROMPT)
        assert len(list(branches(draft(llm, n_max=n_max)))[-1]) <= n_max - 1


# ---------------------------------------------------------------- what it is for


def what_follows(llm, n_texts=6):
    """The mean log-probabilities [last, next] of the favourites in the target's own texts, NaN where one is never last."""
    favourites = list(FAVOURITES)
    rows = {token: [] for token in favourites}
    for seed in range(n_texts):
        llm.reset()
        llm.set_seed(seed)
        text = [*PROMPT, *itertools.islice(llm.generate(PROMPT, temp=1.0), 200)]
        for i in range(len(PROMPT), len(text) - 1):
            if text[i] in rows:
                rows[text[i]].append(log_softmax(llm.scores[i])[favourites])
    return np.array([np.mean(rows[t], axis=0) if rows[t] else [np.nan] * len(favourites) for t in favourites])


def teach(drafter, bias):
    """Writes a head whose term is bias [last, next] between favourites, 0 for all other pairs."""
    tensors = {t.name: t for t in gguf.GGUFReader(str(drafter), "r+").tensors}
    before, after = (
        ("markov_w1.weight", "markov_w2.weight")
        if "markov_w1.weight" in tensors
        else ("selector_predecessor.weight", "selector_successor.weight")
    )
    for i, token in enumerate(FAVOURITES):
        tensors[before].data[token, i] = 1.0
        tensors[after].data[list(FAVOURITES), i] = bias[i]
    if "selector_hidden.weight" in tensors:  # the hidden state is nearly sqrt(n_embd) times the first axis
        tensors["selector_hidden.weight"].data[:, 0] = tensors["selector_hidden.weight"].data.shape[1] ** -0.5
    for tensor in tensors.values():
        tensor.data.flush()


def acceptance_length(llm):
    rounds = tokens = 0
    for seed in range(20):
        llm.set_seed(seed)
        list(itertools.islice(llm.generate([*PROMPT, 48 + seed % 6], temp=1.0), 60))
        rounds += llm.speculative_stats.rounds
        tokens += llm.speculative_stats.tokens
    return tokens / rounds


@pytest.mark.parametrize("head", HEADS)
def test_a_head_that_knows_what_follows_what_accepts_more(load, tmp_path, head):
    target = make_predictable(write_target(tmp_path / "target.gguf", seed=5))
    drafters = [
        write_drafter(tmp_path / f"{name}.gguf", target, head=head, head_std=0.0, top_k=6) for name in ("plain", "taught")
    ]
    pairs = [Pair(target, drafter) for drafter in drafters]
    llm = load(pairs[0], pairs[0].draft(budget=4))
    llm.eval(PROMPT)
    without = llm._engine.logprobs(ROOT, len(PROMPT), 4, N_VOCAB)[2][list(FAVOURITES)]
    teach(drafters[1], np.nan_to_num(what_follows(load(pairs[0], logits_all=True)) - without))
    settings = [dict(budget=16), dict(budget=16, mode="chain")]
    plain, taught = ([acceptance_length(load(pair, pair.draft(**s))) for s in settings] for pair in pairs)
    assert taught[0] > 1.3 * plain[0] and taught[1] > 1.2 * plain[1]
    assert taught[0] > taught[1] and plain[0] > plain[1], "a tree accepts more than a chain"


@pytest.mark.parametrize("damage", ["nan", "inf", "huge", "zero"])
@pytest.mark.parametrize("head", HEADS)
def test_damaged_weights_cost_acceptance_only(load, pair, plain, tmp_path, head, damage):
    drafter = write_drafter(tmp_path / "damaged.gguf", pair.target, head=head)
    for tensor in gguf.GGUFReader(str(drafter), "r+").tensors:
        tensor.data[:] = {"nan": np.nan, "inf": np.inf, "huge": 1e30, "zero": 0.0}[damage]
        tensor.data.flush()
    for settings in (dict(budget=12), dict(budget=7, mode="chain"), dict()):
        llm = load(pair, type(pair.draft())(drafter, **settings))
        a, b = (list(itertools.islice(one.generate(PROMPT, temp=0.0), 30)) for one in (plain, llm))
        assert_same_text(plain, PROMPT, a, b)
