"""Recurrent and hybrid targets go back to checkpoints: a chat's next turn evaluates what is new, and nothing changes."""

import contextlib
import itertools
import pickle

import drafter_models
import models
import numpy as np
import pytest
from conftest import SETTINGS, Pair
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from same_text import assert_same_text

import llama_cpp
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from llama_dflash import Llama, checkpoints
from llama_dflash.checkpoints import NEAR, RAW_TOKENS, STEP, Checkpoint, Checkpoints, branching_places

# Logits of the order of 10 that were computed in batches of other sizes (F32 weights, no flash attention) differ by up to
# 2e-4. One wrong token among the last 200 changes them by 0.17 at least (80 texts of each architecture).
TOLERANCE = 2e-3
TURN, END = models.BOS, models.PAD  # special tokens, as in "<|im_start|>assistant\n" and "<|im_end|>"


def random_text(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, n).tolist()


def write(folder, arch):
    if arch == "mamba":
        return models.write_recurrent(folder / "mamba.gguf")
    return models.write_hybrid(folder / f"{arch}.gguf", arch, n_layer=4)


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Llama objects by architecture and settings; the files are written when they are needed."""
    folder = tmp_path_factory.mktemp("recurrent")
    made = {}

    def get(arch, **more):
        key = arch, tuple(sorted((k, id(v) if callable(v) else v) for k, v in more.items()))
        if key not in made:
            path = folder / f"{arch}.gguf"
            if not path.exists():
                write(folder, arch)
            made[key] = Llama(str(path), **{**SETTINGS, "flash_attn": False, "n_ctx": 2048, **more})
            count_evaluated(made[key])
        made[key].reset()
        made[key].evaluated.clear()
        return made[key]

    yield get
    for llm in made.values():
        llm.close()


@pytest.fixture(params=["qwen35", "mamba"])
def arch(request):
    return request.param


@pytest.fixture
def llm(objects, arch):
    return objects(arch)


@pytest.fixture
def fresh(objects, arch):
    """Evaluates every text from its first token on."""
    return objects(arch, checkpoint_bytes=0)


def count_evaluated(llm):
    """Makes llm.evaluated a list of the sizes of all batches that it decodes."""
    llm.evaluated = []
    decode = llm._ctx.decode
    llm._ctx.decode = lambda batch: (llm.evaluated.append(batch.batch.n_tokens), decode(batch))[1]


def last_logits(llm):
    return np.ctypeslib.as_array(llm._ctx.get_logits_ith(-1), shape=(llm._n_vocab,)).copy()


def fresh_logits(fresh, text):
    fresh.reset()
    fresh.eval(text)
    return last_logits(fresh)


def take(llm, prompt, n, **settings):
    """The next n tokens, the logits that the first was sampled from, and how many tokens were evaluated before it."""
    llm.evaluated.clear()
    generator = llm.generate(prompt, **{"temp": 0.0, **settings})
    tokens = [next(generator)]
    n_evaluated, logits = sum(llm.evaluated), last_logits(llm)
    tokens += itertools.islice(generator, n - 1)
    generator.close()
    return tokens, logits, n_evaluated


def assert_fresh(llm, fresh, prompt, n=3):
    """What `llm` makes of the prompt is what a fresh evaluation gives. Returns how many tokens it evaluated."""
    tokens, logits, n_evaluated = take(llm, prompt, n)
    assert np.abs(logits - fresh_logits(fresh, prompt)).max() < TOLERANCE
    assert_same_text_as_fresh(fresh, prompt, tokens)
    return n_evaluated


def assert_same_text_as_fresh(fresh, prompt, tokens):
    for i, token in enumerate(tokens):
        logits = fresh_logits(fresh, prompt) if i == 0 else (fresh.eval([tokens[i - 1]]), last_logits(fresh))[1]
        assert logits.max() - logits[token] < TOLERANCE


# ---------------------------------------------------------------- turns


@pytest.mark.parametrize("arch", ["qwen35", "qwen35moe", "qwen3next", "mamba"])
def test_the_second_turn_of_a_long_chat_evaluates_what_is_new(objects, arch):
    size = dict(n_ctx=4800, n_batch=512, n_ubatch=512)
    llm, fresh = objects(arch, **size), objects(arch, **size, checkpoint_bytes=0)
    first = [*random_text(3990), TURN, 100, 101, 10]
    answer, _, n = take(llm, first, 250)
    assert n == len(first)
    for second in (
        [*first, *answer, END, *random_text(60, 1), TURN, 100, 101, 10],  # goes on after the answer
        [*first[:-2], *answer[100:], END, *random_text(60, 1), TURN, 100, 101, 10],  # without its thoughts
        [*first, *answer[:170], 7, *answer[170:], END, *random_text(60, 1), TURN, 100, 101, 10],  # tokenized otherwise
    ):
        llm.reset()
        take(llm, first, 250)
        shared = next((i for i, (a, b) in enumerate(zip(second, [*first, *answer[:-1]])) if a != b), len(first) + 249)
        n = assert_fresh(llm, fresh, second)
        assert n < len(second) - shared + 200, "besides its new text it evaluates fewer than 200 tokens"
        assert n < 500


def test_a_restored_memory_is_the_fresh_one_bit_for_bit(llm, fresh):
    """If a fresh object evaluates the same text in the same batches."""
    first = [*random_text(500), TURN, 65]
    take(llm, first, 20)
    batches = list(itertools.takewhile(lambda n: n != 2, llm.evaluated))  # the last two tokens come after the checkpoint
    assert sum(batches) == 500 in llm.checkpoints
    llm.evaluated.clear()
    second = [*first[:-1], *random_text(90, 1), TURN, 66]
    generator = llm.generate(second, temp=0.0)
    next(generator)
    assert sum(llm.evaluated) == 93
    start = 0
    for n in [*batches, *llm.evaluated]:
        fresh.eval(second[start : start + n])
        start += n
    assert start == len(second) and np.array_equal(last_logits(llm), last_logits(fresh))
    generator.close()


def test_many_turns_each_cost_their_own_length(llm, fresh):
    text = [*random_text(300), TURN, 65]
    for turn in range(12):
        answer, _, n = take(llm, text, 30)
        assert n == len(text) if turn == 0 else n < 260
        text = [*text[:-1], *answer, END, *random_text(40, turn), TURN, 65]
    assert_fresh(llm, fresh, text)


def test_a_long_answer_is_covered_too(llm, fresh):
    prompt = random_text(200)
    answer, _, _ = take(llm, prompt, 600)
    places = list(llm.checkpoints)
    assert len(places) >= 4 and max(b - a for a, b in zip(places, [*places[1:], 799])) <= STEP
    for place in (780, 640, 500, 333):
        llm.reset()
        take(llm, prompt, 600)
        assert assert_fresh(llm, fresh, [*(prompt + answer)[:place], 3, 3]) < STEP + 3


def test_the_same_prompt_again_is_restored(llm, fresh):
    prompt = [*random_text(500), TURN, 65, 66]
    first = take(llm, prompt, 40)
    for n in (1, 25):
        again = take(llm, prompt, n)
        assert again[2] <= 3 and np.abs(again[1] - first[1]).max() < TOLERANCE and again[0] == first[0][:n]


def test_an_edited_message_goes_back_to_the_checkpoint_before_it(llm, fresh):
    prompt = random_text(700)
    take(llm, prompt, 5)
    place = max(p for p in llm.checkpoints if p <= 400)
    edited = [*prompt[:400], 1, 2, 3]
    assert assert_fresh(llm, fresh, edited) == len(edited) - place
    assert all(p <= 403 for p in llm.checkpoints), "what lay behind is gone"
    n = assert_fresh(llm, fresh, prompt)
    assert n == RAW_TOKENS if llm._is_recurrent else n >= 300, "a purely recurrent model's checkpoints serve any text"


def test_another_text_starts_anew(llm, fresh):
    take(llm, random_text(300), 10)
    other = random_text(300, 9)
    assert assert_fresh(llm, fresh, other) == 300


@pytest.mark.parametrize("arch", ["mamba"])
def test_a_purely_recurrent_model_goes_on_with_either_of_two_texts(llm, fresh):
    texts = [random_text(400, 5), random_text(500, 6)]
    for turn in range(4):
        for i, text in enumerate(texts):
            answer, logits, n = take(llm, text, 20)
            assert np.abs(logits - fresh_logits(fresh, text)).max() < TOLERANCE
            assert n == len(text) if turn == 0 else n < 160
            texts[i] = [*text, *answer, *random_text(30, turn)]


def test_two_hybrid_texts_in_turns_share_their_beginning(objects):
    llm, fresh = objects("qwen35"), objects("qwen35", checkpoint_bytes=0)
    system = random_text(400, 4)
    for turn in range(3):
        for seed in (1, 2):
            n = assert_fresh(llm, fresh, [TURN, *system, END, TURN, *random_text(50, seed), END, TURN, 65])
            assert n < 60 if turn + seed > 1 else n == 456


def test_short_prompts_get_no_checkpoint(llm):
    take(llm, random_text(NEAR - 5), 3)
    assert llm.checkpoints == {}


def test_reset_forgets_checkpoints(llm, fresh):
    prompt = random_text(400)
    take(llm, prompt, 5)
    llm.reset()
    assert llm.checkpoints == {} and llm._checkpoints.n_bytes == 0
    assert assert_fresh(llm, fresh, prompt) == 400


# ---------------------------------------------------------------- by hand


def test_n_tokens_set_back_by_hand_is_what_the_memory_then_holds(llm, fresh):
    text = random_text(500)
    llm.eval(text)
    for n in (450, 449, 200, 60, 0):
        llm.n_tokens = n
        llm.eval([5, 6])
        assert llm._input_ids.tolist() == [*text[:n], 5, 6]
        assert np.abs(last_logits(llm) - fresh_logits(fresh, [*text[:n], 5, 6])).max() < TOLERANCE


def test_tokens_changed_by_hand_are_not_taken_for_those_of_a_checkpoint(llm, fresh):
    text = random_text(500)
    llm.eval(text)
    assert {192, 384} == set(llm.checkpoints)
    llm.input_ids[200] = (text[200] + 1) % 256
    llm.n_tokens = 480
    llm.evaluated.clear()
    llm.eval([5])
    assert sum(llm.evaluated) == 481 - 192
    changed = [*text[:200], (text[200] + 1) % 256, *text[201:480], 5]
    assert np.abs(last_logits(llm) - fresh_logits(fresh, changed)).max() < TOLERANCE


def test_generators_left_in_the_middle_and_mixed_up(llm, fresh):
    prompt = random_text(300)
    for n in (1, 2, 7):
        generator = llm.generate(prompt, temp=0.0)
        text = list(itertools.islice(generator, n))
        other = llm.generate(prompt[:200] + [9], temp=0.0)
        next(other), next(generator), next(other)
        generator.close(), other.close()
        assert_fresh(llm, fresh, [*prompt, *text, 8])


def test_reset_false_goes_on(llm, fresh):
    prompt = random_text(300)
    text, _, _ = take(llm, prompt, 20)
    more, logits, n = take(llm, [text[-1], 5], 3, reset=False)
    assert n == 2 and np.abs(logits - fresh_logits(fresh, [*prompt, *text, 5])).max() < TOLERANCE


def test_tokens_decoded_outside_of_eval_lie_behind_no_checkpoint(llm, fresh):
    """An image's ids say nothing: what follows it must not be found by them."""
    llm.eval(random_text(200))
    llm._batch.set_batch([7] * 5, llm.n_tokens, False)
    llm._ctx.decode(llm._batch)
    llm.input_ids[200:205] = 7
    llm.n_tokens += 5
    llm.eval(random_text(400, 3))
    assert llm.checkpoints and all(place <= 200 for place in llm.checkpoints)
    llm.n_tokens = 300
    with pytest.raises(RuntimeError, match="an image's perhaps"):
        llm.eval([1])
    assert llm.save_state().n_tokens == 300
    llm.n_tokens = 150
    llm.eval([1])
    assert np.abs(last_logits(llm) - fresh_logits(fresh, [*random_text(200)[:150], 1])).max() < TOLERANCE


def test_a_full_context_harms_nothing(objects, arch):
    llm, fresh = objects(arch, n_ctx=512), objects(arch, checkpoint_bytes=0)
    prompt = random_text(480)
    with contextlib.suppress(RuntimeError, ValueError):  # a purely recurrent memory is never full
        take(llm, prompt, 50)
    assert_fresh(llm, fresh, [*prompt[:400], 3])


def test_embeddings_leave_no_checkpoint_that_could_mislead(objects, arch):
    llm, fresh = objects(arch, embedding=True), objects(arch, checkpoint_bytes=0)
    prompt = random_text(300)
    llm.eval(prompt)
    llm.embed("0123")
    assert llm.checkpoints == {} and llm.n_tokens == 0
    llm.eval(prompt)
    assert llm.checkpoints


# ---------------------------------------------------------------- memory


def one_checkpoint(llm):
    llm.eval(random_text(400))
    n_bytes = max(llm.checkpoints.values())
    llm.reset()
    return n_bytes


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_budget_is_kept_and_the_latest_turn_with_it(objects, arch, n):
    budget = n * (one_checkpoint(objects(arch)) + 4000)
    llm, fresh = objects(arch, checkpoint_bytes=budget), objects(arch, checkpoint_bytes=0)
    text = [*random_text(500), TURN, 65]
    for turn in range(3):
        answer, _, _ = take(llm, text, 400)
        assert 0 < llm._checkpoints.n_bytes <= budget
        assert len(llm.checkpoints) <= n and len(text) - 2 in llm.checkpoints
        text = [*text[:-1], *answer[:100], END, *random_text(40, turn), TURN, 65]
        assert assert_fresh(llm, fresh, text, 1) <= 144


def test_with_little_room_checkpoints_are_close_together_near_the_end():
    kept = Checkpoints(None, 10 * (1000 + 4 * 20000), whole=False)
    kept._size = lambda: 1000
    kept._copy = lambda text, at_turn: Checkpoint(text.copy(), np.empty(1000, dtype=np.uint8), at_turn)
    text = np.arange(20000, dtype=np.intc)
    for end in range(STEP, len(text), STEP):
        kept.evaluated(text[:end], end - STEP)
    places = list(kept.by_place())
    gaps = np.diff([0, *places])
    assert len(places) >= 10 and places[-1] == end and gaps[0] > 8 * gaps[-1] and (gaps[1:] <= 2 * gaps[:-1]).all()


@pytest.mark.parametrize("seconds, most", [(0.0, 50), (0.05, 4), (0.5, 1)])
def test_copies_that_take_long_are_rare_while_a_text_is_written(objects, arch, monkeypatch, seconds, most):
    """A clock on which a token takes a millisecond, and a copy as long as is said."""
    clock = [1e9 * (1 + seconds)]
    begun = clock[0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    get = llama_cpp.llama_state_seq_get_data_ext

    def slow(*args):
        clock[0] += seconds
        return get(*args)

    monkeypatch.setattr(checkpoints.llama_cpp, "llama_state_seq_get_data_ext", slow)
    llm = objects(arch, checkpoint_bytes=1 << 30)
    llm.eval(random_text(20))
    copies = []
    for i in range(8000):
        clock[0] += 0.001
        text = np.arange(20 + i, dtype=np.intc)
        llm._checkpoints.n_known = len(text) - 1
        before = len(llm._checkpoints.by_place())
        llm._checkpoints.evaluated(text, len(text) - 1)
        copies += [i] * (len(llm._checkpoints.by_place()) - before)
    assert 1 <= len(copies) <= most
    assert seconds * (len(copies) - 1) <= 0.021 * (clock[0] - begun)
    monkeypatch.undo()
    llm.reset()


@pytest.mark.parametrize("budget", [0, 1, 1000])
def test_without_room_for_one_everything_works_as_in_the_stock_class(objects, arch, budget):
    llm, fresh = objects(arch, checkpoint_bytes=budget), objects(arch, checkpoint_bytes=0)
    prompt = random_text(300)
    answer, _, _ = take(llm, prompt, 200)
    assert llm.checkpoints == {}
    goes_on = [*prompt, *answer, 5]
    assert assert_fresh(llm, fresh, goes_on) == 2
    assert assert_fresh(llm, fresh, goes_on[:-20]) == 481
    llm.n_tokens = 100
    llm.eval([3])
    assert np.abs(last_logits(llm) - fresh_logits(fresh, [*prompt[:100], 3])).max() < TOLERANCE


@pytest.mark.parametrize("value", [-1, 1.5, "512", None, True])
def test_a_budget_that_is_no_number_of_bytes_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="checkpoint_bytes"):
        Llama(str(tmp_path / "any.gguf"), checkpoint_bytes=value)


def test_a_model_with_attention_alone_has_no_checkpoints(load, pair):
    llm = load(pair)
    llm.eval([48 + i % 5 for i in range(400)])
    assert llm.checkpoints == {} and llm._checkpoints is None


def test_pickling_keeps_the_budget_and_closing_frees_the_checkpoints(objects, arch):
    llm = pickle.loads(pickle.dumps(objects(arch, checkpoint_bytes=1 << 20)))
    assert llm._checkpoint_bytes == llm._checkpoints.max_bytes == 1 << 20
    llm.eval(random_text(300))
    assert llm._checkpoints.n_bytes > 0
    llm.close()
    assert llm._checkpoints.n_bytes == 0


# ---------------------------------------------------------------- states


def test_a_loaded_state_brings_the_latest_turns_checkpoint(llm, fresh):
    prompt = [*random_text(500), TURN, 65]
    answer, _, _ = take(llm, prompt, 100)
    state = pickle.loads(pickle.dumps(llm.save_state()))
    take(llm, random_text(200, 7), 10)
    llm.load_state(state)
    assert 500 in llm.checkpoints
    without_thoughts = [*prompt[:-1], *answer[50:], END, 5]
    assert assert_fresh(llm, fresh, without_thoughts) == len(without_thoughts) - 500


def test_states_of_the_stock_class_load_and_ours_load_there(llm, fresh):
    prompt = random_text(300)
    stock = llama_cpp.llama.Llama(llm.model_path, n_ctx=2048, n_batch=64, n_threads=1, n_threads_batch=1, verbose=False)
    stock.eval(prompt)
    llm.eval(random_text(200, 8))
    llm.load_state(stock.save_state())
    assert llm.checkpoints == {}
    assert assert_fresh(llm, fresh, [*prompt, 5]) == 1
    stock.load_state(llm.save_state())
    assert stock.n_tokens == llm.n_tokens
    stock.close()


def test_checkpoints_of_a_text_that_the_loaded_state_shares_stay(llm, fresh):
    text = random_text(600)
    llm.eval(text)
    state = llm.save_state()
    llm.n_tokens = 400
    llm.eval(random_text(200, 2))
    llm.load_state(state)
    assert set(llm.checkpoints) == {192, 384, 576}, "two that stayed and one from the state"
    assert assert_fresh(llm, fresh, [*text[:390], 3]) == 391 - 384


def test_a_state_saved_behind_the_memorys_end_has_the_end_that_it_says(llm, fresh):
    text = random_text(400)
    llm.eval(text)
    llm.n_tokens = 350
    state = llm.save_state()
    llm.reset()
    llm.load_state(state)
    llm.eval([5])
    assert np.abs(last_logits(llm) - fresh_logits(fresh, [*text[:350], 5])).max() < TOLERANCE


def test_a_damaged_checkpoint_costs_time_only(llm, fresh):
    prompt = [*random_text(500), TURN, 65]
    take(llm, prompt, 10)
    state = llm.save_state()
    place, states = state.checkpoint
    assert place == 500
    for junk in (states[:-7], states[:40], np.zeros(100, dtype=np.uint8), np.zeros_like(states)):
        state.checkpoint = place, junk
        llm.reset()
        llm.load_state(state)
        assert assert_fresh(llm, fresh, [*prompt[:-1], 70, 71]) == len(prompt) + 1


def test_a_state_that_does_not_fit_is_refused_and_forgotten(objects, arch):
    llm, fresh = objects(arch), objects(arch, checkpoint_bytes=0)
    llm.eval(random_text(300))
    state = llm.save_state()
    state.llama_state = state.llama_state[:100]
    state.llama_state_size = 100
    with pytest.raises(RuntimeError):
        llm.load_state(state)
    assert llm.n_tokens == 0 and llm.checkpoints == {}
    assert_fresh(llm, fresh, random_text(300))


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_caches_bring_a_chat_back(objects, arch, tmp_path, kind):
    llm, fresh = objects(arch), objects(arch, checkpoint_bytes=0)
    llm.set_cache(llama_cpp.LlamaRAMCache() if kind == "ram" else llama_cpp.LlamaDiskCache(str(tmp_path)))
    try:
        text = random_text(500)
        for prompt in (text, random_text(300, 1), [*text[:496], *random_text(30, 2)]):
            llm.evaluated.clear()
            llm.create_completion(prompt, max_tokens=20, temperature=0.0)
        assert sum(llm.evaluated) < 60
        answer = llm._input_ids[len(prompt) :].tolist()
        assert_same_text_as_fresh(fresh, prompt, answer)
    finally:
        llm.set_cache(None)


# ---------------------------------------------------------------- with draft models


def test_a_stock_draft_model_works_on_a_recurrent_memory(objects, arch):
    """In the stock class its wrong guesses end the generation with an error: they can't be removed."""
    lookup = LlamaPromptLookupDecoding(num_pred_tokens=6, max_ngram_size=1)
    fresh = objects(arch, checkpoint_bytes=0)
    prompt = random_text(100) * 3
    for more in (dict(), dict(checkpoint_bytes=0)):
        llm = objects(arch, draft_model=lookup, n_ctx=1024, logits_all=True, **more)
        text, _, _ = take(llm, prompt, 40)
        assert_same_text_as_fresh(fresh, prompt, text)
    llm = objects(arch, draft_model=lookup, n_ctx=1024, logits_all=True)
    take(llm, prompt, 40)
    assert sum(llm.evaluated) < 300 + 40 * 14  # every guess costs its own length twice at most


@pytest.fixture(scope="module")
def hybrid_pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hybrid")
    target = drafter_models.make_predictable(models.write_hybrid(folder / "target.gguf", "qwen35", n_layer=4))
    return Pair(target, drafter_models.write_drafter(folder / "drafter.gguf", target))


@pytest.fixture
def drafted(load, hybrid_pair):
    try:
        llm = load(hybrid_pair, hybrid_pair.draft(budget=12), n_ctx=2048)
    except ValueError as error:
        if "hybrid" in str(error):
            pytest.skip("hybrid targets take no drafter yet")
        raise
    count_evaluated(llm)
    return llm


@pytest.fixture
def undrafted(load, hybrid_pair):
    return load(hybrid_pair, n_ctx=2048, logits_all=True, checkpoint_bytes=0)


def digits(n, seed=0):
    return (48 + np.random.default_rng(seed).integers(0, 6, n)).tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 250])
def test_a_drafted_text_left_in_the_middle_of_a_round_goes_on(drafted, undrafted, n):
    prompt = [*digits(600), TURN, 48]
    text = list(itertools.islice(drafted.generate(prompt, temp=0.0), n))
    assert_same_text(undrafted, prompt, list(itertools.islice(undrafted.generate(prompt, temp=0.0), n)), text)
    second = [*prompt, *text, *digits(20, 1)]
    drafted.evaluated.clear()
    rest = list(itertools.islice(drafted.generate(second, temp=0.0), 30))
    assert sum(drafted.evaluated[:8]) < 200 + 21
    assert_same_text(undrafted, second, list(itertools.islice(undrafted.generate(second, temp=0.0), 30)), rest)


def test_a_drafted_texts_next_turn_starts_at_a_checkpoint(drafted, undrafted):
    prompt = [*digits(600), TURN, 48]
    text = list(itertools.islice(drafted.generate(prompt, temp=0.0), 400))
    assert 600 in drafted.checkpoints and len([p for p in drafted.checkpoints if p > 602]) >= 2
    second = [*prompt[:-1], *text[200:], END, *digits(20, 1)]
    drafted.evaluated.clear()
    rest = list(itertools.islice(drafted.generate(second, temp=0.0), 30))
    assert drafted.speculative_stats.accepted > 0
    assert sum(drafted.evaluated[:8]) < len(second) - 600 + 30
    assert_same_text(undrafted, second, list(itertools.islice(undrafted.generate(second, temp=0.0), 30)), rest)


def test_a_drafted_text_used_by_hand_in_the_middle_of_a_round(drafted, undrafted):
    prompt = digits(300)
    for n in range(2, 9):
        text = list(itertools.islice(drafted.generate(prompt, temp=0.0), n))
        state = drafted.save_state()
        drafted.eval([50])
        whole = [*prompt, *text[:-1], 50]
        undrafted.reset()
        undrafted.eval(whole)
        assert np.abs(last_logits(drafted) - undrafted.scores[len(whole) - 1]).max() < 0.05
        drafted.load_state(state)
        assert drafted.n_tokens == len(prompt) + n - 1
        rest = list(itertools.islice(drafted.generate([*prompt, *text], temp=0.0), 20))
        expected = list(itertools.islice(undrafted.generate([*prompt, *text], temp=0.0), 20))
        assert_same_text(undrafted, [*prompt, *text], expected, rest)


# ---------------------------------------------------------------- chats


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_of_text_evaluates_what_is_new(load, hybrid_pair, stream):
    llm = load(hybrid_pair, n_ctx=2048, chat_format="chatml")
    count_evaluated(llm)
    messages = [{"role": "user", "content": "What are the digits? " + bytes(digits(900)).decode()}]

    def chat(**more):
        llm.evaluated.clear()
        answer = llm.create_chat_completion(messages, temperature=0.0, stream=stream, **more)
        parts = [a["choices"][0]["delta" if stream else "message"].get("content") for a in (answer if stream else [answer])]
        return "".join(part or "" for part in parts)

    messages.append({"role": "assistant", "content": chat(max_tokens=50)})
    assert sum(llm.evaluated) > 900
    for turn in range(3):
        messages.append({"role": "user", "content": "more"})
        messages.append({"role": "assistant", "content": chat(max_tokens=50)})
        assert sum(llm.evaluated) < 50 + 130
    text = chat(max_tokens=20, stop=["1"])
    assert sum(llm.evaluated) < 300 and "1" not in text


def test_verbose_says_what_was_restored(objects, capfd):
    llm = objects("qwen35", verbose=True)
    take(llm, random_text(300), 3)
    take(llm, [*random_text(300)[:298], 1, 2], 3)
    assert "292 tokens restored from a checkpoint" in capfd.readouterr().err
    objects("qwen35")  # verbose is one setting of the whole process


# ---------------------------------------------------------------- where a turn branches off


LONG = [1] * 100


@pytest.mark.parametrize(
    "prompt, places",
    [
        ([1, 2, 3, TURN, 4, 5], [3]),
        ([1, 2, TURN], [2]),
        ([1] * 20, [20 - RAW_TOKENS]),
        ([TURN, *LONG], [101 - RAW_TOKENS]),
        ([1, 2], [0]),
        ([TURN], [0]),
        ([], [0]),
        ([TURN, *LONG, END, TURN, 4], [101, 102]),
        ([TURN, *LONG, END, TURN, *LONG, END, TURN, 4], [101, 102, 204]),
        ([TURN, *LONG, END, *LONG * 9, TURN, *LONG, TURN, 4], [101, 1002, 1103]),
        ([TURN, 1, END, *LONG, TURN, 4], [103]),
    ],
)
def test_texts_probably_branch_off_at_special_tokens(prompt, places):
    assert branching_places(np.array(prompt, dtype=np.intc), lambda token: token in (TURN, END)) == places


# ---------------------------------------------------------------- anything


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("arch", ["qwen35", "mamba"])
@pytest.mark.parametrize("fitting", [None, 2])
def test_any_sequence_of_turns_gives_the_logits_of_a_fresh_object(objects, arch, fitting, data):
    more = {} if fitting is None else dict(checkpoint_bytes=fitting * 70_000 if arch == "qwen35" else fitting * 40_000)
    llm, fresh = objects(arch, n_ctx=1024, **more), objects(arch, checkpoint_bytes=0)
    saved = []
    for _ in range(data.draw(st.integers(1, 5), "steps")):
        step = data.draw(st.sampled_from(["turn", "turn", "branch", "branch", "by hand", "reset", "save", "load", "other"]))
        known = llm._input_ids.tolist()
        place = data.draw(st.integers(0, len(known)), "place")
        new = random_text(data.draw(st.integers(1, 200), "new"), data.draw(st.integers(0, 3), "seed"))
        if step == "reset":
            llm.reset()
        elif step == "save":
            saved.append(llm.save_state())
        elif step == "load" and saved:
            llm.load_state(saved[-1])
        elif step == "by hand":
            place = max(0, place - max(0, len(known) + 200 - 900))
            llm.n_tokens = place
            llm.eval(new)
            assert np.abs(last_logits(llm) - fresh_logits(fresh, [*known[:place], *new])).max() < TOLERANCE
        else:
            prompt = {"turn": [*known, *new], "branch": [*known[:place], *new], "other": new}.get(step, new)[-700:]
            n = data.draw(st.integers(1, 200), "answer")
            assert_fresh(llm, fresh, prompt, 1 if n < 30 else 2)
            take(llm, prompt, min(n, 1000 - len(prompt)))
        assert llm._checkpoints.n_bytes <= llm._checkpoints.max_bytes
        assert list(llm.checkpoints) == sorted(llm.checkpoints) and all(p <= llm.n_tokens for p in llm.checkpoints)
