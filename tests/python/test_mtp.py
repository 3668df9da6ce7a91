"""Drafts of a model's own MTP layer: what it computes, with a random layer; what it guesses, with the trained one."""

import itertools
import subprocess
import sys
from pathlib import Path

import gguf
import models as tiny
import numpy as np
import pytest
from conftest import SETTINGS
from mtp_models import SHIPPED, NaiveHead, add_random_layer, shipped, split
from same_text import assert_same_text, measured_tolerance

import llama_cpp
from llama_dflash import Llama, MTPDraft, info

F32 = dict(type_k=0, type_v=0, flash_attn=False)
PROMPT = list(b"the digits: 0123456789, and so on")
CODE = 'def is_prime(n: int) -> bool:\n    """True if n is a prime number."""\n'
QUESTION = "Question: A box holds 12 pencils. How many pencils are in 7 boxes?\nAnswer:"


@pytest.fixture(scope="module")
def random_target(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mtp")
    target = tiny.write_hybrid(folder / "target.gguf", n_layer=4, seed=3)
    return add_random_layer(target, folder / "with-mtp.gguf")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return shipped(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def opened():
    objects = {}

    def get(path, draft=None, **settings):
        key = (path, draft, tuple(sorted(settings.items())))
        if key not in objects:
            objects[key] = Llama(str(path), draft_model=draft, **{**SETTINGS, "n_ctx": 1024, **settings})
        objects[key].reset()
        return objects[key]

    yield get
    for llm in objects.values():
        llm.close()


def greedy(llm, prompt, n, **settings):
    prompt = llm.tokenize(prompt.encode(), add_bos=False, special=True) if isinstance(prompt, str) else prompt
    return prompt, list(itertools.islice(llm.generate(prompt, temp=0.0, **settings), n))


# ---------------------------------------------------------------- what it computes


def states_of(path, tokens):
    """The target's hidden states [n, n_embd] after its output norm."""
    llm = Llama(str(path), embedding=True, pooling_type=llama_cpp.LLAMA_POOLING_TYPE_NONE, **{**SETTINGS, **F32})
    states = []
    for token in tokens:
        llm.eval([token])
        states.append(np.ctypeslib.as_array(llama_cpp.llama_get_embeddings_ith(llm.ctx, 0), (llm.n_embd(),)).copy())
    llm.close()
    return np.array(states, np.float64)


@pytest.mark.parametrize("mode", ["tree", "chain"])
def test_every_node_has_the_probability_that_the_layer_gives_it_after_its_own_path(opened, random_target, mode):
    head = NaiveHead(random_target)
    llm = opened(random_target, MTPDraft(budget=14, depth=4, width=4, mode=mode, **F32), **F32)
    seen, n_checked, last = list(PROMPT), 0, None
    for token in itertools.islice(llm.generate(PROMPT, temp=0.0), 5):
        tree = llm.last_tree
        if tree is not None and tree is not last:
            expected = head.of_tree(seen[:-1], states_of(random_target, seen[:-1]), tree.tokens[0], tree.tokens, tree.parents)
            for node in range(1, len(tree.tokens)):
                assert abs(expected[tree.parents[node]][tree.tokens[node]] - tree.logprobs[node]) < 1e-4
                n_checked += 1
            best = np.argsort(expected[0])[::-1]
            children = [tree.tokens[n] for n in range(1, len(tree.tokens)) if tree.parents[n] == 0]
            assert children == best[: len(children)].tolist()
        last = tree
        seen.append(token)
    assert n_checked >= (14 if mode == "tree" else 4) * 2


# ---------------------------------------------------------------- exactness


@pytest.mark.parametrize("mode", ["tree", "chain"])
@pytest.mark.parametrize("budget", [1, 3, 8, 15, "auto"])
def test_greedy_text_is_plain_decodings(opened, trained, budget, mode):
    plain = opened(trained, logits_all=True)
    llm = opened(trained, MTPDraft(budget=budget, mode=mode))
    for text in (CODE, QUESTION):
        prompt, a = greedy(plain, text, 50)
        _, b = greedy(llm, text, 50)
        tolerance = measured_tolerance(plain, prompt)
        assert_same_text(plain, prompt, a, b, tolerance)
    if budget not in (1, "auto"):
        assert llm.speculative_stats.acceptance_length > 1.7, "the layer guesses, or this test shows nothing"


def test_the_text_of_a_random_layer_is_plain_decodings(opened, random_target):
    plain, llm = opened(random_target, logits_all=True), opened(random_target, MTPDraft(budget=12))
    assert_same_text(plain, PROMPT, greedy(plain, PROMPT, 60)[1], greedy(llm, PROMPT, 60)[1])


# ---------------------------------------------------------------- acceptance


def acceptance_length(llm, n=48):
    rounds = tokens = 0
    for text in (CODE, QUESTION, "import math\n\n\ndef area(radius: float) -> float:\n"):
        llm.reset()
        greedy(llm, text, n)
        rounds += llm.speculative_stats.rounds
        tokens += llm.speculative_stats.tokens
    return tokens / rounds


def test_a_tree_accepts_more_than_a_chain_of_the_same_depth(opened, trained):
    chain = acceptance_length(opened(trained, MTPDraft(budget=4, depth=4, mode="chain")))
    tree = acceptance_length(opened(trained, MTPDraft(budget=15, depth=4, mode="tree")))
    assert tree >= 1.1 * chain and chain > 1.8, (tree, chain)


# ---------------------------------------------------------------- between two tokens


def test_a_state_that_was_saved_goes_on_with_the_same_drafts(opened, trained):
    llm = opened(trained, MTPDraft(budget=8))
    prompt, _ = greedy(llm, CODE, 20)
    llm.reset()
    text = list(itertools.islice(llm.generate(prompt, temp=0.0), 12))
    state = llm.save_state()
    _, rest = greedy(llm, [*prompt, *text], 16, reset=True)
    length = llm.speculative_stats.acceptance_length
    llm.reset()
    llm.load_state(state)
    assert greedy(llm, [*prompt, *text], 16)[1] == rest
    assert llm.speculative_stats.acceptance_length >= length - 0.5


def test_text_that_is_cut_back_and_goes_on_otherwise_is_plain_decodings(opened, trained):
    plain, llm = opened(trained, logits_all=True), opened(trained, MTPDraft(budget=8))
    prompt, text = greedy(llm, CODE, 24)
    other = [*prompt, *text[:9], *llm.tokenize(b"\n    # or", add_bos=False)]
    _, a = greedy(plain, other, 24)
    _, b = greedy(llm, other, 24)
    assert_same_text(plain, other, a, b, measured_tolerance(plain, prompt))


def test_a_layer_that_remembers_little_still_drafts(opened, trained):
    plain, llm = opened(trained, logits_all=True), opened(trained, MTPDraft(budget=8, context=16))
    prompt, a = greedy(plain, CODE * 4, 40)
    _, b = greedy(llm, CODE * 4, 40)
    assert_same_text(plain, prompt, a, b, measured_tolerance(plain, prompt))
    assert llm.speculative_stats.acceptance_length > 1.2


# ---------------------------------------------------------------- files


def test_the_word_means_the_targets_own_layer(trained):
    with_word = Llama(str(trained), draft_model="mtp", **SETTINGS)
    assert with_word.draft_model == MTPDraft() and with_word.speculative_stats is not None
    with_word.close()


def test_a_file_of_the_layer_alone_drafts_for_the_target_without_one(opened):
    llm = opened(SHIPPED / "tiny-qwen35.gguf", MTPDraft(SHIPPED / "tiny-qwen35-mtp.gguf", budget=8))
    greedy(llm, CODE, 32)
    assert llm.speculative_stats.acceptance_length > 1.7


def test_its_path_is_known_as_one():
    from llama_dflash.drafts import parse

    assert parse(SHIPPED / "tiny-qwen35-mtp.gguf") == [MTPDraft(SHIPPED / "tiny-qwen35-mtp.gguf")]


def test_a_target_without_a_layer_is_refused():
    with pytest.raises(ValueError, match="tiny-qwen35.gguf has no MTP layer, which draft_model=\"mtp\" drafts with"):
        Llama(str(SHIPPED / "tiny-qwen35.gguf"), draft_model="mtp", **SETTINGS)


def test_a_layer_of_another_target_is_refused(tmp_path):
    other = tiny.write_hybrid(tmp_path / "other.gguf", n_layer=4)
    with pytest.raises(ValueError, match='does not fit this target: .* vocabulary of 8192 tokens.*; the layer reads hidden'):
        Llama(str(other), draft_model=MTPDraft(SHIPPED / "tiny-qwen35-mtp.gguf"), **SETTINGS)


def test_several_layers_are_refused(random_target, tmp_path):
    file = with_number(random_target, tmp_path / "two.gguf", "qwen35.nextn_predict_layers", 2)
    with pytest.raises(ValueError):  # blk.3 is no MTP layer
        Llama(str(file), draft_model="mtp", **SETTINGS)


def with_number(path, changed, key, value):
    changed.write_bytes(path.read_bytes())
    gguf.GGUFReader(str(changed), "r+").fields[key].parts[-1][0] = value
    return changed


@pytest.mark.parametrize("value", [5, 6, 100, 2**31, 2**32 - 1])
def test_a_number_of_layers_that_is_damaged_is_refused(random_target, tmp_path, value):
    file = with_number(random_target, tmp_path / "damaged.gguf", "qwen35.nextn_predict_layers", value)
    with pytest.raises(ValueError):
        Llama(str(file), draft_model="mtp", **SETTINGS)


@pytest.mark.parametrize("arguments", [("truncate",), ("flip", "0", "300"), ("values", "0", "6")], ids=" ".join)
def test_no_damage_to_a_layers_file_crashes(random_target, tmp_path, arguments):
    """In a process of its own: a crash there is a failure here, and the last case it printed is the one."""
    target = tiny.write_hybrid(tmp_path / "target.gguf", n_layer=4, seed=3)
    layer = split(random_target, tmp_path / "layer-mtp.gguf")
    command = [sys.executable, str(Path(__file__).with_name("fuzz_drafters.py")), str(target), str(layer), str(tmp_path / "case.gguf"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=240)
    cases = [line for line in run.stdout.splitlines() if line.startswith("case ")]
    assert run.returncode == 0, f"exit code {run.returncode} at {cases[-1:]}\n{run.stderr[-2000:]}"
    assert len(cases) >= 100 and "done: " in run.stdout


def test_a_target_with_a_layer_is_a_target_like_any_other(opened, trained):
    a = greedy(opened(SHIPPED / "tiny-qwen35.gguf"), CODE, 30)
    assert greedy(opened(trained), CODE, 30) == a


def test_info_says_what_fits_and_what_memory_the_layer_takes(trained):
    alone, bare = SHIPPED / "tiny-qwen35-mtp.gguf", SHIPPED / "tiny-qwen35.gguf"
    facts = info.report([info.Model(trained)], info.Settings(n_ctx=1024), ["mtp"])
    assert facts["fits"][0]["fits"] and facts["files"][0]["layers"] == 12
    (cache,) = [part["bytes"] for part in facts["files"][0]["memory"] if part["what"] == "MTP layer: KV cache"]
    assert cache == 1280 * 2 * 2 * 64 * 2  # cells; K and V of 2 heads of 64 in halves
    facts = info.report([info.Model(bare), info.Model(alone)], info.Settings(), ["mtp"])
    alone_fits, word_fits = facts["fits"]
    assert alone_fits["fits"] and facts["files"][1]["kind"] == "MTP layer"
    assert "it has 0 MTP layers" in word_fits["problems"][0]
