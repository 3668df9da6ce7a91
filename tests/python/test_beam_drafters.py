"""Drafters that run a model for every depth of a tree: EAGLE-3 heads and small models. Their drafts change no text."""

import itertools
import os
import random
import subprocess
import sys

import models
import pytest
from conftest import SETTINGS
from drafter_models import make_predictable, target_shape, write_eagle3
from same_text import assert_same_text
from test_lanes import prompts_of

from llama_dflash import DFlashDraft, Eagle3Draft, Llama, ModelDraft
from llama_dflash._lanes import Lanes

PROMPT = list(b"the digits: 0123")


def greedy(llm, n, prompt=PROMPT, **settings):
    return list(itertools.islice(llm.generate(prompt, temp=0.0, **settings), n))


class Files:
    """A target, and a drafter of either kind for it."""

    def __init__(self, folder, arch):
        write = models.write_hybrid if arch in models.HYBRIDS else models.write_target
        self.target = make_predictable(write(folder / "target.gguf", arch, seed={"qwen35": 8}.get(arch, 5)))
        self.model = make_predictable(models.write_target(folder / "small.gguf", seed=6, n_layer=1))
        self.head = write_eagle3(folder / "head.gguf", self.target)

    def draft(self, kind, **settings):
        return ModelDraft(self.model, **settings) if kind == "model" else Eagle3Draft(self.head, **settings)


@pytest.fixture(scope="module", params=["llama", "gemma3", "qwen35"])
def files(request, tmp_path_factory):
    return Files(tmp_path_factory.mktemp("beam"), request.param)


@pytest.fixture(scope="module")
def llama_files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("beam"), "llama")


@pytest.fixture(params=["eagle3", "model"])
def kind(request):
    return request.param


@pytest.mark.parametrize(
    "settings",
    [dict(budget=12), dict(budget=5, mode="chain"), dict(budget="auto"), dict(budget=3, depth=8)],
    ids=str,
)
def test_greedy_text_is_plain_decodings(kept, files, kind, settings):
    plain = kept(files, logits_all=True)
    llm = kept(files, files.draft(kind, **settings))
    assert_same_text(plain, PROMPT, greedy(plain, 60), greedy(llm, 60))
    if settings["budget"] == 12:
        assert llm.speculative_stats.accepted > 8, "the drafter guesses, or this test shows nothing"


@pytest.mark.parametrize("mode", ["tree", "chain"])
def test_a_model_that_drafts_for_itself_is_nearly_always_right(kept, llama_files, mode):
    files = llama_files
    llm = kept(files, ModelDraft(files.target, budget=12 if mode == "tree" else 5, mode=mode, depth=5))
    greedy(llm, 90)
    assert llm.speculative_stats.acceptance_length > 5.2  # of 6


def test_a_tree_is_accepted_for_no_less_than_a_chain_of_its_depth(kept, files, kind):
    """Of the same rounds, as the chain is in the tree: here over texts, whose rounds part."""
    lengths = []
    for mode, budget in (("tree", 12), ("chain", 5)):
        llm = kept(files, files.draft(kind, budget=budget, mode=mode))
        greedy(llm, 90)
        lengths.append(llm.speculative_stats.acceptance_length)
    assert lengths[0] >= lengths[1] - 0.1


def test_a_memory_smaller_than_the_text_changes_no_text(kept, files, kind):
    plain = kept(files, logits_all=True)
    llm = kept(files, files.draft(kind, budget=12, context=20))
    assert_same_text(plain, PROMPT, greedy(plain, 100), greedy(llm, 100))
    assert llm.speculative_stats.accepted > 4


def test_a_prompt_longer_than_the_memory_and_than_a_batch(kept, files, kind):
    plain = kept(files, logits_all=True)
    llm = kept(files, files.draft(kind, budget=12, context=50))
    prompt = PROMPT * 12
    assert_same_text(plain, prompt, greedy(plain, 40, prompt), greedy(llm, 40, prompt))
    assert llm.speculative_stats.accepted > 4


@pytest.mark.parametrize("draft", [dict(budget=12), dict(budget=6, mode="chain")], ids=str)
def test_a_recurrent_or_hybrid_model_expands_one_node_a_depth(kept, llama_files, tmp_path_factory, draft):
    small = make_predictable(models.write_hybrid(tmp_path_factory.mktemp("hybrid") / "small.gguf", "qwen35", seed=3))
    plain, llm = kept(llama_files, logits_all=True), kept(llama_files, ModelDraft(small, context=64, **draft))
    for prompt in (PROMPT, PROMPT[:5] + PROMPT, PROMPT):
        assert_same_text(plain, prompt, greedy(plain, 90, prompt), greedy(llm, 90, prompt))
    assert llm.speculative_stats.accepted > 8
    tree = llm.last_tree
    expanded = sorted(set(tree.parents) - {-1})
    assert all(tree.parents[node] in expanded for node in expanded[1:]) and len(expanded) <= 5


def test_a_dflash_drafter_and_others_together(kept, pair, llama_files):
    """One tree of what three of them propose."""
    head = write_eagle3(pair.target.with_name("head.gguf"), pair.target)
    drafts = [DFlashDraft(pair.drafter, budget=12), Eagle3Draft(head), ModelDraft(llama_files.model)]
    llm = Llama(str(pair.target), draft_model=drafts, **SETTINGS)
    plain = kept(pair, logits_all=True)
    assert_same_text(plain, PROMPT, greedy(plain, 80), greedy(llm, 80))
    assert llm.speculative_stats.accepted > 20
    llm.close()


# ---------------------------------------------------------------- several lanes


@pytest.mark.parametrize("settings", [dict(budget=7), dict(budget=5, mode="chain"), dict(budget="auto")], ids=str)
def test_the_text_of_every_lane_is_plain_decodings(kept, files, kind, settings):
    """One forward of the drafter for a depth of all lanes."""
    plain, prompts = kept(files, logits_all=True), prompts_of(3)
    lanes = Lanes(files.target, [files.draft(kind, **settings)], 3, unified=True)
    lanes.begin(prompts)
    while min(len(text) for text in lanes.texts.values()) < 30:
        lanes.round(list(prompts))
    lanes.close()
    for lane, prompt in prompts.items():
        assert_same_text(plain, prompt, greedy(plain, 30, prompt), lanes.texts[lane][:30])


def test_lanes_that_come_and_go_in_any_order(kept, files, kind):
    rng = random.Random(1)
    plain, prompts, fresh = kept(files, logits_all=True), {}, iter(range(100))
    lanes = Lanes(files.target, [files.draft(kind, budget=6, context=60)], 4, unified=False)
    for _ in range(25):
        free = [lane for lane in range(4) if lane not in prompts]
        if free and (not prompts or rng.random() < 0.3):
            new = {lane: prompts_of(1, seed=next(fresh))[0] for lane in rng.sample(free, rng.randint(1, len(free)))}
            lanes.begin(new)
            prompts.update(new)
        some = rng.sample(sorted(prompts), rng.randint(1, len(prompts)))
        lanes.round(some, choose=rng.choice, stop_after={lane: rng.randint(1, 3) for lane in some if rng.random() < 0.3})
        for lane in [lane for lane in prompts if len(lanes.texts[lane]) > 30 or rng.random() < 0.05]:
            text, prompt = lanes.end(lane), prompts.pop(lane)
            assert_same_text(plain, prompt, greedy(plain, len(text), prompt), text)
    lanes.close()


def test_drafts_of_several_lanes_are_those_of_each_alone(files, kind):
    """Chains, of which all nodes fit into the budget that the lanes share."""
    prompts, settings = prompts_of(3, seed=5), dict(budget=5, depth=5, mode="chain")
    together = Lanes(files.target, [files.draft(kind, **settings)], 3)
    together.begin(prompts)
    for _ in range(3):
        n_past = {lane: together.n_past(lane) for lane in prompts}
        texts = {lane: [*prompt, *together.texts[lane]] for lane, prompt in prompts.items()}
        trees = together.round([0, 1, 2])
        for lane, text in texts.items():
            alone = Lanes(files.target, [files.draft(kind, **settings)], 1)
            alone.begin({0: text[: n_past[lane]]})
            alone.texts[0] = [text[n_past[lane]]]
            assert alone.round([0])[0].tokens == trees[lane].tokens
            alone.close()
    together.close()


# ---------------------------------------------------------------- what does not fit


def refusal(files, draft_model):
    with pytest.raises(ValueError) as error:
        Llama(str(files.target), draft_model=draft_model, **SETTINGS)
    return str(error.value)


def test_a_path_is_a_drafter_of_the_kind_that_its_file_says(load, llama_files):
    assert load(llama_files, llama_files.model).draft_model == ModelDraft(llama_files.model)
    assert load(llama_files, llama_files.head).draft_model == Eagle3Draft(llama_files.head)


def test_a_model_of_another_vocabulary(llama_files, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(models, "_byte_symbols", lambda: models_symbols()[::-1])
        other = models.write_target(tmp_path / "other.gguf")
    message = refusal(llama_files, other)
    assert "does not fit this target: token 0 is " in message and "Use a drafter that was made for it, or draft_model=None" in message


models_symbols = models._byte_symbols


def test_a_head_of_another_target(llama_files, tmp_path):
    wide = models.write_target(tmp_path / "wide.gguf", n_embd=96)
    head = write_eagle3(tmp_path / "head.gguf", wide)
    assert "the head reads hidden states of size 96, the target's have 64" in refusal(llama_files, head)


def test_a_head_of_layers_that_the_target_does_not_have(llama_files, tmp_path):
    head = write_eagle3(tmp_path / "head.gguf", llama_files.target, layers=(1, 2, 9))
    assert "reads the input of target layer 9, the target has layers 0 to 2" in refusal(llama_files, head)


def test_a_file_of_another_kind(pair, llama_files):
    assert 'architecture "dflash", which is no model by itself' in refusal(llama_files, ModelDraft(pair.drafter))
    assert 'architecture "llama", expected "eagle3": draft_model takes an EAGLE-3 head' in refusal(
        llama_files, Eagle3Draft(llama_files.model)
    )


@pytest.mark.parametrize("part", [0.5, 0.99])
def test_a_truncated_file(llama_files, kind, part, tmp_path):
    data = (llama_files.model if kind == "model" else llama_files.head).read_bytes()
    short = tmp_path / "short.gguf"
    short.write_bytes(data[: int(len(data) * part)])
    assert "short.gguf" in refusal(llama_files, ModelDraft(short) if kind == "model" else Eagle3Draft(short))


def test_a_file_that_is_not_there(llama_files, kind, tmp_path):
    draft = (ModelDraft if kind == "model" else Eagle3Draft)(tmp_path / "none.gguf")
    assert refusal(llama_files, draft) == f"draft_model: no such file: {tmp_path / 'none.gguf'}"


@pytest.mark.parametrize("settings", [dict(depth=0), dict(depth=65), dict(width=0), dict(width="4")], ids=str)
def test_settings_that_no_beam_has(kind, settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r}, expected 1 to 64"):
        (ModelDraft if kind == "model" else Eagle3Draft)("x.gguf", **settings)


# ---------------------------------------------------------------- between two tokens

SCRIPT = """
import random, sys
from llama_dflash import Eagle3Draft, Llama, ModelDraft

target, drafter, kind = sys.argv[1:]
SETTINGS = dict(n_ctx=512, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)
draft = (Eagle3Draft if kind == "eagle3" else ModelDraft)(drafter, budget=10, context=100)
plain, drafted = Llama(target, **SETTINGS), Llama(target, draft_model=draft, **SETTINGS)

def calls(llm, seed):
    rng, states, text = random.Random(seed), [], []
    llm.reset()
    llm.set_seed(7)
    stream = llm.generate(list(b"the digits: 0123"), temp=rng.choice([0.0, 0.9]))
    for i in range(60):
        text.append((next(stream), llm.n_tokens))
        what = rng.randrange(14)
        if what == 0:
            states.append(llm.save_state())
        elif what == 1 and states:
            llm.load_state(rng.choice(states))
        elif what == 2:
            llm.eval([rng.randrange(48, 54) for _ in range(rng.choice([1, 3, 70]))])
        elif what == 3:
            llm.n_tokens -= min(llm.n_tokens - 1, rng.choice([1, 3, 20]))
        elif what == 4:
            stream = llm.generate([rng.randrange(48, 54) for _ in range(rng.choice([1, 5, 40]))], temp=0.0)
        elif what == 5:
            llm.reset()
            llm.eval([50, 51])
        if llm.n_tokens > 350:
            llm.reset()
            stream = llm.generate([48, 49], temp=0.5)
    return text

n = 0
for seed in range(12):
    assert calls(plain, seed) == calls(drafted, seed), seed
    n += drafted.speculative_stats.accepted
assert n > 12, n
print("equal")
"""


@pytest.mark.parametrize("arch", ["llama", "qwen35"])
def test_random_calls_between_tokens_change_no_text(kind, arch, tmp_path):
    files = Files(tmp_path, arch)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(files.target), str(files.model if kind == "model" else files.head), kind],
        cwd=tmp_path,
        env={**os.environ, "GGML_CPU_BATCH_INVARIANT": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.strip() == "equal", run.stderr[-3000:]
