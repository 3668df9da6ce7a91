"""What OpenAI's API has and llama_cpp.server has not, with the openai client."""

import json
import re

import httpx
import openai
import pytest
from asking import CHOICE, MESSAGES, PROMPT, TOOLS, chat, complete, streamed, text_of, text_of_chunks

USAGE = {"include_usage": True}
RANDOM = dict(temperature=1.5, extra_body={"repeat_penalty": 1.0, "top_k": 0, "min_p": 0.0})


# ---------------------------------------------------------------- usage of streams


@pytest.mark.parametrize("ask", [complete, chat])
def test_a_stream_says_its_usage_in_a_last_chunk_if_it_is_asked_to(same, ask):
    usage = same(ask(), text_of).usage
    asked = ask(stream=True, stream_options=USAGE)
    *chunks, last = same(streamed(asked), lambda chunks: text_of_chunks(chunks[:-1]))
    assert last.choices == [] and last.usage == usage and last.timings["predicted_n"] == 40
    assert not any(chunk.usage or hasattr(chunk, "timings") for chunk in chunks)
    assert len({chunk.id for chunk in [*chunks, last]}) == 1


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {}])
def test_a_stream_that_is_not_asked_for_its_usage_has_no_such_chunk(drafted, options):
    chunks = streamed(complete(stream=True, stream_options=options))(drafted.client())
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert chunks[-1].timings["predicted_n"] == 40


# ---------------------------------------------------------------- streamed tool calls


def test_a_streamed_tool_call_is_named_once_and_then_has_arguments_only(drafted):
    request = dict(tools=TOOLS, tool_choice=CHOICE, max_tokens=200)
    (call,) = chat(**request)(drafted.client()).choices[0].message.tool_calls
    deltas = [c.choices[0].delta for c in streamed(chat(stream=True, **request))(drafted.client())]
    first, *others = [d.tool_calls[0] for d in deltas if d.tool_calls]
    assert (first.index, first.type, first.function.name, first.function.arguments) == (0, "function", "look_up", "")
    assert first.id
    assert not any(other.id or other.type or other.function.name for other in others)
    assert "".join(other.function.arguments for other in others) == call.function.arguments


def test_the_openai_clients_own_accumulation_of_a_stream_has_the_tool_call(drafted):
    request = dict(model="any", messages=MESSAGES, tools=TOOLS, tool_choice=CHOICE, max_tokens=200, temperature=0)
    with drafted.client().chat.completions.stream(**request, stream_options=USAGE) as stream:
        answer = stream.get_final_completion()
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "look_up" and json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")
    assert answer.choices[0].finish_reason == "tool_calls" and answer.usage.completion_tokens > 0


# ---------------------------------------------------------------- several texts


def texts_of(answer):
    assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
    return [choice.text if hasattr(choice, "text") else choice.message.content for choice in answer.choices]


def texts_of_chunks(chunks):
    """Of every choice in a stream: its text, if it ended once."""
    texts, ended = {}, []
    for choice in (chunk.choices[0] for chunk in chunks if chunk.choices):
        said = choice.text if hasattr(choice, "text") else choice.delta.content
        texts[choice.index] = texts.get(choice.index, "") + (said or "")
        ended += [choice.index] if choice.finish_reason else []
    assert ended == sorted(texts)
    return [texts[i] for i in ended]


@pytest.mark.parametrize("ask", [complete, chat])
def test_n_texts_have_seeds_that_follow_the_requests(same, drafted, ask):
    answer = same(ask(n=3, seed=5, **RANDOM), texts_of)
    texts = texts_of(answer)
    singles = [ask(seed=5 + i, **RANDOM)(drafted.client()) for i in range(3)]
    assert texts == [texts_of(single)[0] for single in singles] and len(set(texts)) == 3
    assert answer.usage.prompt_tokens == singles[0].usage.prompt_tokens
    assert answer.usage.completion_tokens == sum(single.usage.completion_tokens for single in singles)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.timings["predicted_n"] >= answer.usage.completion_tokens

    chunks = streamed(ask(n=3, seed=5, stream=True, stream_options=USAGE, **RANDOM))(drafted.client())
    assert texts_of_chunks(chunks) == texts
    assert chunks[-1].usage == answer.usage and len({chunk.id for chunk in chunks}) == 1


def test_n_texts_without_a_seed_differ(drafted):
    assert len(set(texts_of(complete(n=3, **RANDOM)(drafted.client())))) == 3


def test_several_prompts_have_a_choice_each_in_their_order(same, drafted):
    prompts = [PROMPT, "elsewhere: 543", "0"]
    singles = [complete(prompt=prompt)(drafted.client()) for prompt in prompts]
    expected = [texts_of(single)[0] for single in singles]
    answer = same(complete(prompt=prompts), texts_of)
    assert texts_of(answer) == expected
    assert answer.usage.prompt_tokens == sum(single.usage.prompt_tokens for single in singles)
    chunks = streamed(complete(prompt=prompts, stream=True))(drafted.client())
    assert texts_of_chunks(chunks) == expected
    assert [hasattr(chunk, "timings") for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_n_choices_of_every_prompt_stand_together(drafted):
    prompts = [PROMPT, "elsewhere: 543"]
    texts = texts_of(complete(prompt=prompts, n=2, seed=3, **RANDOM)(drafted.client()))
    firsts = [texts_of(complete(prompt=prompt, n=2, seed=3, **RANDOM)(drafted.client())) for prompt in prompts]
    assert texts == firsts[0] + firsts[1]


def test_one_prompt_in_a_list_is_that_prompt(same):
    assert texts_of(same(complete(prompt=[PROMPT]), texts_of)) == texts_of(same(complete(), texts_of))


# ---------------------------------------------------------------- other words


def test_a_developer_is_heard_as_the_system(same):
    def said_by(role):
        return chat(messages=[{"role": role, "content": "Digits only: 77"}, *MESSAGES])

    assert texts_of(same(said_by("developer"), texts_of)) == texts_of(same(said_by("system"), texts_of))
    assert texts_of(same(said_by("system"), texts_of)) != texts_of(same(chat(), texts_of)), "or this shows nothing"


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "request_, said, param",
    [
        (complete(n=1, best_of=3), "best_of is 3 and n is 1", None),
        (complete(n=2, best_of=1), "best_of is 1 and n is 2", None),
        (complete(n=0), "greater than or equal to 1", "n"),
        (chat(n=1000), "less than or equal to 128", "n"),
        (complete(prompt=[[1, 2, 3]]), "valid string", "prompt"),
        (chat(messages=[{"role": "poet", "content": "0"}]), "'system'", "messages.0"),
        (complete(max_tokens="many"), "valid integer", "max_tokens"),
        (complete(prompt=""), "the prompt is empty", None),
        (complete(prompt=[]), "the prompt is empty", None),
        (complete(n=0, stream=True), "greater than or equal to 1", "n"),
    ],
)
def test_a_request_that_is_not_understood_is_the_clients_error(drafted, request_, said, param):
    n_tracebacks = drafted.log.count("Traceback")
    with pytest.raises(openai.BadRequestError, match=re.escape(said)) as error:
        request_(drafted.client())
    assert error.value.type == "invalid_request_error"
    assert (error.value.param or "").startswith(param or "")
    assert drafted.log.count("Traceback") == n_tracebacks


def test_best_of_n_of_n_is_n(drafted):
    assert len(texts_of(complete(n=2, best_of=2)(drafted.client()))) == 2


def test_a_body_that_is_no_json_is_the_clients_error(drafted):
    answer = httpx.post(f"{drafted.url}/v1/completions", content=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error" and "JSON" in answer.json()["error"]["message"]


# ---------------------------------------------------------------- clients that go away


@pytest.mark.parametrize("ask", [complete, chat])
def test_a_client_that_does_not_wait_for_its_answer_ends_its_generation(same, drafted, ask):
    def generated():
        return [int(n) for n in re.findall(r"Llama\.generate: (\d+) tokens in \d+ rounds", drafted.log)]

    before = len(generated())
    with pytest.raises(openai.APITimeoutError):
        ask(n=50, max_tokens=1900)(drafted.client().with_options(timeout=0.5))
    same(complete(), text_of)  # waits for its turn
    left, answered = generated()[before:-1], generated()[-1]
    assert 1 <= len(left) < 50 and left[-1] < 1800 and answered >= 39
