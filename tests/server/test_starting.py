"""How a server is told what to serve, and what it says when it can't."""

import os
import re
import subprocess
import sys

import drafter_models
import numpy as np
import openai
import pytest
import yaml
from servers import ENVIRONMENT, OPTIONS, arguments, command

PROMPT = "the digits: 0123"
KEY = "secret"


def ask(server, model="any", prompt=PROMPT, api_key=KEY, **request):
    request = {"temperature": 0, "max_tokens": 40, "extra_body": {"repeat_penalty": 1.0}, **request}
    return server.client(api_key).completions.create(model=model, prompt=prompt, **request)


def text_of(answer) -> str:
    return answer.choices[0].text


# ---------------------------------------------------------------- refusals


def refusal(folder, *words, before=None):
    """The last line that a command which has to fail says on stderr."""
    run = command(*words) if before is None else [sys.executable, "-c", before]
    done = subprocess.run(
        run, capture_output=True, text=True, timeout=60, cwd=folder, env={**os.environ, **ENVIRONMENT, "VERBOSE": "false"}
    )
    assert done.returncode not in (0, -11), done.stderr
    assert "Traceback" not in done.stderr and "Uvicorn" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_a_drafter_of_another_target_is_refused(folder, pair):
    wrong = drafter_models.write_drafter(folder / "wrong.gguf", pair.target, n_embd=96)
    said = refusal(folder, *arguments(model=pair.target, draft_model=wrong))
    assert said.startswith("llama_dflash.server: draft_model: ") and "96" in said and "64" in said


def test_a_word_that_is_no_drafter_is_refused(folder, pair):
    said = refusal(folder, *arguments(model=pair.target, draft_model="bigram"))
    assert 'draft_model is "bigram", which is no file, expected the path of a DFlash drafter' in said and '"ngram"' in said


def test_a_setting_that_the_drafter_does_not_have_is_refused(folder, pair):
    said = refusal(folder, *arguments(model=pair.target, draft_model="ngram", draft_model_block="short"))
    assert "draft_model_block: ngram has no such setting" in said


def test_a_missing_drafter_is_refused_also_of_a_model_that_is_not_loaded_first(folder, pair):
    assert "no such file: none.gguf" in refusal(folder, *arguments(model=pair.target, draft_model="none.gguf"))
    config = folder / "missing.yaml"
    config.write_text(yaml.safe_dump({"models": [{"model": str(pair.target)}, {"model": "x", "draft_model": "none.gguf"}]}))
    assert "no such file: none.gguf" in refusal(folder, "--config_file", config)


def test_a_wrong_setting_of_the_drafter_is_refused(folder, pair):
    said = refusal(folder, *arguments(model=pair.target, draft_model=pair.drafter, draft_model_budget=0))
    assert "budget is 0" in said


def test_missing_packages_are_named_with_what_to_install(folder):
    without_fastapi = (
        "import importlib.util as u, runpy; find = u.find_spec; "
        "u.find_spec = lambda name, *more: None if name == 'fastapi' else find(name, *more); "
        "runpy.run_module('llama_dflash.server', run_name='__main__')"
    )
    said = refusal(folder, before=without_fastapi)
    assert said == 'llama_dflash.server: the server needs fastapi: pip install "llama-dflash[server]"'


# ---------------------------------------------------------------- the environment


@pytest.fixture(scope="module")
def from_environment(start, pair):
    """Everything from the environment; requests interrupt streams, as upstream's do by default."""
    options = dict(model=pair.target, draft_model=pair.drafter, draft_model_budget=9, draft_model_mode="chain", cache=True)
    options["interrupt_requests"] = True
    return start(**{name.upper(): str(value) for name, value in {**options, **OPTIONS, "verbose": False}.items()})


def test_environment_variables_set_what_options_do(plain, from_environment):
    answer = ask(from_environment)
    assert text_of(answer) == text_of(ask(plain))
    assert answer.timings["draft_n_accepted"] > 0


def test_a_new_request_interrupts_a_stream_which_says_so(plain, from_environment):
    text = ""
    with pytest.raises(openai.APIError, match="another request came") as error:
        with ask(from_environment, prompt="0123 " * 8, max_tokens=1900, stream=True, timeout=30) as stream:
            text += text_of(next(stream))
            assert text_of(ask(from_environment)) == text_of(ask(plain))
            for chunk in stream:
                text += text_of(chunk)
    assert error.value.code == "interrupted"
    assert text_of(ask(plain, prompt="0123 " * 8, max_tokens=1900)).startswith(text)


def test_answers_from_the_cache_are_the_same(plain, from_environment):
    other = "elsewhere: 543"
    for prompt in (PROMPT, other, PROMPT, other):
        assert text_of(ask(from_environment, prompt=prompt)) == text_of(ask(plain, prompt=prompt))
        ask(from_environment, prompt=prompt, logprobs=1)  # keeps other logits than the cache's states do


# ---------------------------------------------------------------- a file with several models and a key


CALLS = dict(chat_format="chatml-function-calling")  # this format's answers are made of several completions
FLAG = {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]}
CALL = dict(
    messages=[{"role": "user", "content": "0123"}],
    tools=[{"type": "function", "function": {"name": "look_up", "parameters": FLAG}}],
    tool_choice="auto",
)


@pytest.fixture(scope="module")
def several(folder, start, pair, other_pair, hybrid_pair):
    common = {**OPTIONS, "verbose": False}
    del common["accept_any_model"]
    wrong = drafter_models.write_drafter(folder / "of-another-size.gguf", pair.target, n_embd=96)
    models = [
        dict(model_alias="one", model=str(pair.target), draft_model=str(pair.drafter), draft_model_budget=12),
        dict(model_alias="two", model=str(other_pair.target), draft_model=str(other_pair.drafter), draft_model_budget="auto"),
        dict(model_alias="lookup", model=str(pair.target), draft_model="prompt-lookup-decoding", flash_attn=True),
        dict(model_alias="mixed-up", model=str(pair.target), draft_model=str(wrong)),
        dict(model_alias="ngram", model=str(pair.target), draft_model="ngram", draft_model_budget=12),
        dict(model_alias="both", model=str(pair.target), draft_model=f"{pair.drafter}, ngram", draft_model_budget=12),
        dict(model_alias="embedding", model=str(pair.target), draft_model=str(pair.drafter), embedding=True),
        dict(model_alias="embedding-plain", model=str(pair.target), flash_attn=True, embedding=True),
        dict(model_alias="hybrid", model=str(hybrid_pair.target), draft_model=str(hybrid_pair.drafter), draft_model_budget=12),
        dict(model_alias="hybrid-plain", model=str(hybrid_pair.target), flash_attn=True, checkpoint_bytes=0),
        dict(model_alias="caller", model=str(pair.target), draft_model=str(pair.drafter), draft_model_budget=12, **CALLS),
        dict(model_alias="caller-plain", model=str(pair.target), flash_attn=True, **CALLS),
    ]
    config = folder / "models.yaml"
    config.write_text(yaml.safe_dump({"api_key": KEY, "models": [{**common, **model} for model in models]}))
    return start("--config_file", config)


def test_every_model_of_a_file_has_its_own_drafter(plain, start, several, other_pair):
    other_plain = start(*arguments(model=other_pair.target, flash_attn=True, verbose=False, **OPTIONS))
    for model, reference in (("one", plain), ("two", other_plain), ("one", plain)):
        answer = ask(several, model)
        assert text_of(answer) == text_of(ask(reference)) and answer.model == model
        assert model == "two" or answer.timings["draft_n"] > 0
    assert text_of(ask(plain)) != text_of(ask(other_plain)), "or this shows nothing"


@pytest.mark.parametrize("model", ["ngram", "both"])
def test_drafts_of_the_text_itself_alone_and_beside_a_drafter(plain, several, model):
    answer = ask(several, model, max_tokens=60)
    assert text_of(answer) == text_of(ask(plain, max_tokens=60))
    assert answer.timings["draft_n_accepted"] > 0


def test_prompt_lookup_decoding_still_works(plain, several):
    answer = ask(several, "lookup")
    assert text_of(answer) == text_of(ask(plain))
    assert "draft_n" not in answer.timings


def test_a_wrong_drafter_of_a_later_model_is_an_error_of_its_requests_alone(plain, several):
    with pytest.raises(openai.InternalServerError, match="hidden size"):
        ask(several, "mixed-up")
    assert text_of(ask(several, "one")) == text_of(ask(plain))


def test_a_hybrid_models_answers_are_plain_decodings(several):
    def talk(model):
        first, whole = ask(several, model), ask(several, model, max_tokens=20, logprobs=2)
        again = ask(several, model, prompt=PROMPT + text_of(first) + " and 54", stream=True)
        return text_of(first), whole.choices[0].logprobs.token_logprobs, "".join(text_of(chunk) for chunk in again)

    assert talk("hybrid") == talk("hybrid-plain")
    assert ask(several, "hybrid").timings["draft_n_accepted"] > 0


def test_answers_made_of_several_completions_are_plain_decodings(several):
    def call(model):
        request = dict(model=model, temperature=0, max_tokens=60, extra_body={"repeat_penalty": 1.0}, **CALL)
        return several.client(KEY).chat.completions.create(**request)

    drafted, plain = call("caller"), call("caller-plain")
    assert drafted.choices[0].message.content == plain.choices[0].message.content
    assert drafted.timings["predicted_n"] == plain.timings["predicted_n"] > drafted.usage.completion_tokens > 0


def test_embeddings_are_those_without_a_drafter(several):
    def embed(model):
        answer = several.client(KEY).embeddings.create(model=model, input="the digits", encoding_format="float")
        return np.array(answer.data[0].embedding)  # [n_tokens, n_embd]: this target does not pool

    drafted, plain = embed("embedding"), embed("embedding-plain")
    assert drafted.shape[1] == 64 and np.allclose(drafted, plain, atol=1e-5)


def test_a_key_is_needed_where_one_is_set_but_not_for_health(several, plain):
    for key in ("wrong", KEY + "?"):
        with pytest.raises(openai.AuthenticationError):
            ask(several, api_key=key)
    assert several.client("wrong").get("/../health", cast_to=object) == {"status": "ok"}
    assert text_of(ask(several, "one")) == text_of(ask(plain, api_key="any will do"))


# ---------------------------------------------------------------- upstream's options


def test_every_option_of_upstream_is_there(folder):
    def options(module):
        done = subprocess.run(
            [sys.executable, "-c", f"import llama_dflash, runpy; runpy.run_module('{module}', run_name='__main__')", "--help"],
            capture_output=True, text=True, timeout=60, cwd=folder, env={**os.environ, **ENVIRONMENT},
        )  # fmt: skip
        return set(re.findall(r"^  (--\w+)", done.stdout, re.MULTILINE))

    upstream, ours = options("llama_cpp.server"), options("llama_dflash.server")
    assert len(upstream) > 50 and upstream < ours
    new = {"--checkpoint_bytes", "--max_queue", "--max_body_mb", "--accept_any_model", "--allowed_media_hosts", "--n_parallel", "--rpc_timeout"}
    assert all(name.startswith("--draft_model_") for name in ours - upstream - new)
