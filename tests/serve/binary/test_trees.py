"""With draft trees the server answers what it answers without them."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import gguf
import httpx
import numpy as np
import pytest
from conftest import Two, comparable
from llama_server import Server, texts

ARCHS = ("llama", "qwen35")
PROMPT = "The numbers are 0123450123450 and then "
PROMPTS = [PROMPT, "a", "Once there was a tree with many branches. " * 3, "54321 54321 54321 543"]

REQUESTS = {
    "greedy": {},
    "a seed": dict(temperature=1.2, seed=7),
    "another seed, no top-k": dict(temperature=0.9, seed=8, top_k=0, top_p=0.9),
    "min-p": dict(temperature=1.5, seed=9, top_k=0, top_p=1.0, min_p=0.1),
    "penalties": dict(temperature=0.8, seed=1, repeat_penalty=1.3, frequency_penalty=0.2, presence_penalty=0.1),
    "greedy with penalties": dict(repeat_penalty=1.5, repeat_last_n=16),
    "dry": dict(dry_multiplier=0.8, dry_allowed_length=1, temperature=0.5, seed=2),
    "xtc": dict(xtc_probability=0.5, xtc_threshold=0.05, temperature=1.0, seed=3),
    "typical": dict(typical_p=0.7, temperature=1.0, seed=4),
    "mirostat 1": dict(mirostat=1, temperature=1.0, seed=5),
    "mirostat 2": dict(mirostat=2, temperature=1.0, seed=6),
    "dynamic temperature": dict(temperature=1.0, dynatemp_range=0.5, seed=10),
    "logit bias": dict(logit_bias=[["0", -5.0], ["3", 2.5]]),
    "logprobs": dict(n_probs=4),
    "logprobs of samples": dict(n_probs=4, temperature=1.1, seed=11),
    "logprobs after sampling": dict(n_probs=4, post_sampling_probs=True, temperature=1.1, seed=12),
    "a grammar": dict(grammar='root ::= ("0" | "1" | "a")+', temperature=1.0, seed=13),
    "a grammar that ends": dict(grammar='root ::= [0-9] [0-9] [0-9] "x" [a-e]{2,5}'),
    "a schema": dict(json_schema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}, temperature=0.7, seed=14),
    "a lazy grammar": dict(
        grammar='root ::= "10" [a-c]{3,6} [0-9]+', grammar_lazy=True, grammar_triggers=[dict(type=1, value="10")], temperature=1.5, seed=19
    ),
    "a reasoning budget": dict(
        reasoning_budget_tokens=4, reasoning_budget_start_tag="1", reasoning_budget_end_tags=["xyz"], reasoning_control=True, temperature=1.0, seed=20
    ),
    "a stop string": dict(stop=["3"]),
    "a long stop string": dict(stop=["01", "234"], temperature=1.0, seed=15),
    "one token": dict(n_predict=1),
    "two tokens": dict(n_predict=2),
    "the end ignored": dict(ignore_eos=True, temperature=2.0, seed=16, top_k=0, top_p=1.0),
    "another order of samplers": dict(samplers=["temperature", "top_k", "top_p"], temperature=1.3, seed=17, top_k=12),
    "few tokens kept": dict(min_keep=3, top_p=0.1, temperature=1.5, seed=18),
}


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", REQUESTS)
def test_the_text_is_plain_decodings(two, arch, name):
    two(arch).same(PROMPT, **{"n_predict": 40, **REQUESTS[name]})


@pytest.mark.parametrize("arch", ARCHS)
def test_rounds_give_more_than_a_token(two, arch):
    answer = two(arch, "--spec-tree-budget", 12).same(PROMPT, 60)
    timings = answer["timings"]
    assert timings["acceptance_length"] > 1.5 and timings["rounds"] < 40
    assert timings["draft_n"] >= timings["draft_n_accepted"] > 0
    assert timings["draft_n_accepted"] + timings["rounds"] == 59  # the first token is the prompt's


@pytest.mark.parametrize("arch", ARCHS)
def test_streams_are_the_same(two, arch):
    servers = two(arch)
    for request in (dict(), dict(temperature=1.1, seed=3, n_probs=2), dict(stop=["45"])):
        events = [list(server.stream(PROMPT, 40, **request)) for server in (servers.plain, servers.trees)]
        plain, trees = ([(e["content"], e["tokens"], e["stop"], e.get("completion_probabilities")) for e in es] for es in events)
        assert trees == plain


def all_at_once(server, requests):
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda request: server.complete(**request), requests))


@pytest.mark.parametrize("arch", ARCHS)
def test_eight_on_four_slots_are_the_same_as_one_by_one(two, arch):
    servers = two(arch, "-np", 4)
    requests = [dict(prompt=p, n_predict=48, temperature=t, seed=i) for i, (p, t) in enumerate(itertools.product(PROMPTS, (0, 1.1)))]
    expected = [servers.plain.complete(**request) for request in requests]
    answers = all_at_once(servers.trees, requests)
    assert texts(answers) == texts(expected)
    assert all(answer["timings"]["rounds"] > 0 for answer in answers)


def assert_same_but_for_ties(answer, expected):
    """Equal, or part where plain decoding's two best tokens are as good as equal: logprobs of two are in `expected`."""
    for token, other, probs in zip(answer["tokens"], expected["tokens"], expected["completion_probabilities"]):
        if token != other:
            best = probs["top_logprobs"]
            assert {token, other} == {best[0]["id"], best[1]["id"]} and best[0]["logprob"] - best[1]["logprob"] < 0.01, (best, token)
            return


@pytest.mark.parametrize("arch", ARCHS)
def test_a_cache_that_the_slots_share(two, arch):
    """Where a slot's cells are in it depends on what the others do, and so does how attention rounds: with trees and without."""
    servers = two(arch, "-np", 4, "-kvu")
    requests = [dict(prompt=p, n_predict=48, n_probs=2, cache_prompt=False) for p in PROMPTS]
    expected = [servers.plain.complete(**request) for request in requests]
    for answer, plain in zip(all_at_once(servers.trees, requests), expected):
        assert_same_but_for_ties(answer, plain)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_prompt_that_comes_back_is_not_evaluated_again(two, arch):
    """Neither after an answer that ended in the middle of a round."""
    servers, prompt = two(arch), PROMPT
    for request in (dict(stop=["2"]), dict(n_predict=17), dict(), dict(temperature=1.3, seed=5)):
        answer = servers.same(prompt, **request)
        prompt += answer["content"] + " more "


@pytest.mark.parametrize("arch", ARCHS)
def test_a_closed_connection_ends_the_request_and_its_slot_goes_on(two, arch):
    servers = two(arch)
    expected = servers.plain.complete(PROMPT, 40, cache_prompt=False)
    for n_events in (1, 3, 10):
        stream = servers.trees.stream(PROMPT, 400, ignore_eos=True)
        for _ in range(n_events):
            next(stream)
        stream.close()
        answer = servers.trees.complete(PROMPT, 40)
        assert (answer["content"], answer["tokens"]) == (expected["content"], expected["tokens"])


@pytest.mark.parametrize("words", [("-c", 256, "--context-shift"), ("-c", 256)], ids=["shifted", "full"])
def test_a_full_context_is_shifted_or_ends_the_text(two, words):
    servers = two("llama", *words)
    for request in (dict(), dict(temperature=1.0, seed=4), dict(n_keep=8, n_discard=10)):
        answer = servers.same(PROMPT, 400, ignore_eos=True, **request)
        assert answer["truncated"]
        assert answer["tokens_predicted"] == 400 or "--context-shift" not in words


def test_a_context_that_the_slots_share_runs_full(two):
    """Those who still have room go on."""
    servers = two("llama", "-np", 3, "-kvu", "-c", 256)
    long = [dict(prompt=p, n_predict=200, ignore_eos=True) for p in ("a b c", "012 345", "x")]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda body: servers.trees.http.post("/completion", json=body), long))
    assert {answer.status_code for answer in answers} <= {200, 500}
    full = [answer for answer in answers if answer.status_code == 500]
    assert all("Context size has been exceeded" in answer.text for answer in full)
    assert len(full) < 3
    servers.same("a b c", 20, cache_prompt=False)


@pytest.mark.parametrize("arch", ARCHS)
def test_several_answers_to_a_prompt(two, arch):
    servers = two(arch, "-np", 4)
    body = dict(prompt=PROMPT, n_cmpl=3, n_predict=30, temperature=1.2, seed=3, return_tokens=True)
    plain, trees = (server.post("/completion", **body) for server in (servers.plain, servers.trees))
    assert texts(trees) == texts(plain) and len(trees) == 3


@pytest.mark.parametrize("mode", ["tree", "chain"])
@pytest.mark.parametrize("budget", ["auto", 1, 40])
def test_any_budget_and_mode(two, budget, mode):
    servers = two("qwen35", "--spec-tree-budget", budget, "--spec-tree-mode", mode)
    servers.same(PROMPT, 40)
    servers.same(PROMPT, 40, temperature=1.0, seed=2)


def test_ngram_drafts(two):
    servers = two("llama", draft=("--spec-draft", "ngram"))
    answer = servers.same("0123 abcabcabc " * 6, 60)
    assert answer["timings"]["draft_n"] > 0


def test_a_list_of_drafters(two, pairs):
    servers = two("llama", draft=("--spec-draft", f"ngram,{pairs['llama'][1]}", "--spec-tree-budget", 8))
    servers.same(PROMPT, 60)
    servers.same(PROMPT, 60, temperature=1.0, seed=3)


def test_a_small_model_drafts(two, pairs, folder):
    servers = two("qwen35", draft=("-md", pairs["llama"][0], "--spec-tree-budget", 8))
    assert servers.same(PROMPT, 40)["timings"]["draft_n"] > 0


def test_the_models_own_layer_drafts(start, folder):
    import mtp_models

    target = mtp_models.shipped(folder)
    drafts = ("--spec-type", "tree", "--spec-draft", "mtp", "--spec-tree-budget", 6)
    servers = Two(start("-m", target), start("-m", target, *drafts))
    answer = servers.same("Once upon a time", 40)
    assert answer["timings"]["draft_n_accepted"] > 5


def test_saved_slots_come_back_with_what_drafters_remember(two, folder):
    saved = folder / "slots"
    saved.mkdir(exist_ok=True)
    for arch in ARCHS:
        servers = two(arch, "--slot-save-path", f"{saved}/", "--spec-tree-budget", 8)
        text = PROMPT + servers.same(PROMPT, 20)["content"]
        for server in (servers.plain, servers.trees):
            server.post("/slots/0?action=save", filename=f"{arch}.{server is servers.trees}")
        servers.same("Something else, so that the slot is overwritten", 10)
        rounds = []
        for with_drafters in (True, False):
            for server in (servers.plain, servers.trees):
                server.post("/slots/0?action=restore", filename=f"{arch}.{server is servers.trees}")
            rounds.append(servers.same(text, 20)["timings"]["rounds"])
            (saved / f"{arch}.True.drafters").unlink(missing_ok=True)
        assert rounds[0] <= rounds[1]


def test_slots_show_the_last_tree(two):
    servers = two("llama", "--spec-tree-budget", 12)
    answer = servers.same(PROMPT, 40)
    shown = next(slot["speculative"] for slot in servers.trees.get("/slots") if slot["id"] == answer["id_slot"])
    assert shown["rounds"] == answer["timings"]["rounds"] and shown["tokens"] == 39
    assert sum(shown["acceptance_lengths"]) == shown["rounds"] and shown["tokens_per_second"] > 0
    assert sum(n * (i + 1) for i, n in enumerate(shown["acceptance_lengths"])) == shown["tokens"]
    nodes = shown["tree"]["nodes"]
    assert shown["tree"]["round"] == shown["rounds"] and nodes[0]["parent"] == -1 and nodes[0]["accepted"]
    assert all(node["parent"] < i and 0 <= node["p"] <= 1 and isinstance(node["text"], str) for i, node in enumerate(nodes))
    assert all(nodes[node["parent"]]["accepted"] for node in nodes[1:] if node["accepted"])
    assert servers.plain.get("/slots")[0]["speculative"] is False


def test_metrics_count_rounds(two):
    servers = two("llama", "--spec-tree-budget", 12)
    before = servers.trees.metrics()
    timings = servers.same(PROMPT, 40)["timings"]
    after = servers.trees.metrics()
    grown = {name: after[name] - before[name] for name in after}
    assert grown["llamacpp:tree_rounds_total"] == timings["rounds"]
    assert grown["llamacpp:tree_nodes_total"] == timings["draft_n"]
    assert grown["llamacpp:tree_accepted_total"] == timings["draft_n_accepted"]
    assert grown["llamacpp:tree_acceptance_length_count{}"] == grown['llamacpp:tree_acceptance_length_bucket{le="+Inf"}'] == timings["rounds"]
    assert grown["llamacpp:tree_acceptance_length_sum{}"] == 39
    assert not any("tree" in name for name in servers.plain.metrics())


def refused(folder, *words):
    """What a server says that does not start."""
    with pytest.raises(RuntimeError) as error:
        Server(folder / "refused.log", *words)
    assert "(1)" in str(error.value).splitlines()[0], error.value  # it ended by itself, with an error
    return str(error.value)


def test_a_drafter_of_another_target_ends_the_start(pairs, folder):
    target, drafter = pairs["llama"][0], folder / "other-dflash.gguf"
    import drafter_models
    import models

    other = models.write_target(folder / "other.gguf", n_embd=96)
    drafter_models.write_drafter(drafter, other)
    assert "hidden" in refused(folder, "-m", target, "--spec-type", "tree", "-md", drafter)


def test_options_that_name_no_drafter_end_the_start(pairs, folder):
    target = pairs["llama"][0]
    trees = ("-m", target, "--spec-type", "tree")
    assert "there is no drafter" in refused(folder, *trees)
    assert "no such draft model: nothing.gguf" in refused(folder, *trees, "-md", "nothing.gguf")
    assert "no such draft model: banana" in refused(folder, *trees, "--spec-draft", "ngram,banana")
    assert "expected auto or a number" in refused(folder, *trees, "--spec-draft", "ngram", "--spec-tree-budget", "many")
    assert "expected tree or chain" in refused(folder, *trees, "--spec-draft", "ngram", "--spec-tree-mode", "bush")


def test_chat_and_embeddings_beside_trees(two):
    """Requests of other kinds are the server's own."""
    servers = two("llama", "-np", 2, "--chat-template", "chatml")
    body = dict(messages=[dict(role="user", content="Count")], max_tokens=30, temperature=0)
    plain, trees = (server.post("/v1/chat/completions", **body) for server in (servers.plain, servers.trees))
    assert trees["choices"][0]["message"] == plain["choices"][0]["message"]
    assert trees["usage"] == plain["usage"] and trees["timings"]["rounds"] > 0


def test_grammars_of_tools(two):
    servers = two("llama", "-np", 2, "--chat-template", "chatml")
    function = dict(name="f", parameters=dict(type="object", properties=dict(n=dict(type="integer")), required=["n"]))
    body = dict(messages=[dict(role="user", content="Call f")], tools=[dict(type="function", function=function)], max_tokens=60, seed=3)
    for choice, temperature in (("auto", 1.2), ("required", 0), ("required", 0.8)):
        request = dict(body, tool_choice=choice, temperature=temperature)
        plain, trees = (server.http.post("/v1/chat/completions", json=request) for server in (servers.plain, servers.trees))
        assert trees.status_code == plain.status_code
        plain, trees = (without_ids(answer.json()) for answer in (plain, trees))
        assert trees == plain


def without_ids(answer):
    """But for what is of the moment."""
    if isinstance(answer, list):
        return [without_ids(item) for item in answer]
    if not isinstance(answer, dict):
        return answer
    return {key: without_ids(value) for key, value in answer.items() if key not in ("id", "created", "timings", "system_fingerprint")}


def test_requests_with_other_adapters_do_not_wait_for_each_other(two, folder):
    """They can't share a forward pass: each kind has its round."""
    write_lora(folder / "lora.gguf")
    servers = two("llama", "-np", 3, "--lora", folder / "lora.gguf")
    requests = [dict(prompt=PROMPT, n_predict=40, n_probs=1, lora=[dict(id=0, scale=scale)], cache_prompt=False) for scale in (0.0, 1.0, 0.5)]
    expected = [servers.plain.complete(**request) for request in requests]
    probs = [answer["completion_probabilities"] for answer in expected]
    assert probs[0] != probs[1] != probs[2]
    assert [answer["completion_probabilities"] for answer in all_at_once(servers.trees, requests)] == probs


def write_lora(path, n_embd=64, n_out=128, rank=4):
    rng = np.random.default_rng(3)
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_type("adapter")
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", 8.0)
    for layer in range(3):
        w.add_tensor(f"blk.{layer}.attn_q.weight.lora_a", rng.standard_normal((rank, n_embd)).astype(np.float32))
        w.add_tensor(f"blk.{layer}.attn_q.weight.lora_b", rng.standard_normal((n_out, rank)).astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def test_it_ends_at_once_when_told_in_the_middle_of_a_text(start, pairs):
    target, drafter = pairs["qwen35"]
    server = start("-m", target, "--spec-type", "tree", "-md", drafter)
    stream = server.stream(PROMPT, 900, ignore_eos=True)
    next(stream)
    stream.close()  # upstream's waits for clients that still listen
    server.process.terminate()
    assert server.process.wait(2) == 0


def test_whoever_leaves_does_not_disturb_the_others(two):
    servers = two("qwen35", "-np", 4)
    expected = servers.plain.complete(PROMPT, 60, cache_prompt=False)

    def leave(n_events):
        with httpx.Client(base_url=servers.trees.http.base_url, trust_env=False, timeout=60) as http:
            body = dict(prompt=PROMPTS[2], n_predict=300, stream=True, ignore_eos=True)
            with http.stream("POST", "/completion", json=body) as answer:
                for _ in zip(range(n_events), answer.iter_lines()):
                    pass

    with ThreadPoolExecutor(4) as pool:
        leaving = [pool.submit(leave, n) for n in (2, 5, 9, 14)]
        answers = [servers.trees.complete(PROMPT, 60, cache_prompt=False) for _ in range(3)]
        for future in leaving:
            future.result()
    assert {answer["content"] for answer in answers} == {expected["content"]}
    assert comparable(servers.trees.complete(PROMPT, 60, cache_prompt=False)) == comparable(expected)
