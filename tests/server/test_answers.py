"""The openai client's requests: the answers are those of the server without a drafter."""

import json

import openai
import pytest
from asking import CHOICE, CITY, MESSAGES, TOOLS, chat, complete, streamed, text_of, text_of_chunks


def assert_drafted(timings, n_predicted=None):
    assert timings["draft_n"] >= timings["draft_n_accepted"] > 0
    assert n_predicted is None or timings["predicted_n"] == n_predicted
    assert timings["predicted_ms"] > 0 and timings["predicted_per_second"] > 0


def test_a_completion_is_plain_decodings_and_tells_what_was_drafted(same):
    answer = same(complete(), text_of)
    assert answer.usage.completion_tokens == 40
    assert_drafted(answer.timings, 40)
    assert answer.timings["prompt_n"] + answer.timings["cache_n"] == answer.usage.prompt_tokens


def test_without_a_drafter_timings_do_not_speak_of_drafts(plain):
    timings = complete(max_tokens=5)(plain.client()).timings
    assert timings["predicted_n"] == 5 and not {"draft_n", "draft_n_accepted"} & timings.keys()


def test_a_streamed_completion_is_the_whole_one_and_its_last_chunk_has_the_timings(same):
    chunks = same(streamed(complete(stream=True)), text_of_chunks)
    assert_drafted(chunks[-1].timings, 40)
    assert not any(hasattr(chunk, "timings") for chunk in chunks[:-1])
    same(complete(), text_of)


def test_a_chat_is_plain_decodings(same):
    answer = same(chat(), text_of)
    assert_drafted(answer.timings, 40)


def test_a_streamed_chat_is_plain_decodings(same):
    chunks = same(streamed(chat(stream=True)), text_of_chunks)
    assert_drafted(chunks[-1].timings, 40)


def test_the_next_turn_of_a_chat_is_plain_decodings(same):
    said = same(chat(), text_of).choices[0].message.content
    messages = [*MESSAGES, {"role": "assistant", "content": said}, {"role": "user", "content": "On: 45"}]
    answer = same(chat(messages=messages), text_of)
    assert answer.timings["cache_n"] > 0, "the first turn is in memory"


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_with_arguments_of_its_schema(same, stream):
    request = chat(tools=TOOLS, tool_choice=CHOICE, max_tokens=200, stream=stream)

    def call(answer):
        function = answer.choices[0].message.tool_calls[0].function
        return function.name, function.arguments

    def call_in_chunks(chunks):
        calls = [c.choices[0].delta.tool_calls[0].function for c in chunks if c.choices[0].delta.tool_calls]
        return calls[0].name, "".join(c.arguments for c in calls)

    look = call_in_chunks if stream else call
    answer = same(streamed(request) if stream else request, look)
    name, text = look(answer)
    assert name == "look_up" and json.loads(text)["city"] in ("Oslo", "Rome")
    assert (answer[-1] if stream else answer).timings["predicted_n"] > 0


def test_an_answer_follows_a_json_schema(same):
    answer = same(chat(response_format={"type": "json_object", "schema": CITY}, max_tokens=200), text_of)
    assert json.loads(answer.choices[0].message.content).keys() == {"city", "capital"}


def test_openais_own_words_for_a_json_schema_and_for_max_tokens_are_understood(same):
    older = same(chat(response_format={"type": "json_object", "schema": CITY}, max_tokens=200), text_of)
    openais = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    newer = same(chat(response_format=openais, max_tokens=None, max_completion_tokens=200), text_of)
    assert text_of(newer) == text_of(older)
    assert same(chat(max_tokens=None, max_completion_tokens=7), text_of).usage.completion_tokens == 7


def test_a_format_of_no_known_type_is_an_error(drafted):
    with pytest.raises(openai.APIError, match="response_format"):
        chat(response_format={"type": "poem"})(drafted.client())


def test_logprobs_of_a_completion_are_plain_decodings(same):
    def look(answer):
        logprobs = answer.choices[0].logprobs
        return logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs

    assert len(same(complete(logprobs=3, max_tokens=12), look).choices[0].logprobs.tokens) == 12
    same(complete(logprobs=2, max_tokens=6, echo=True), look)  # of the prompt too, which is in memory
    same(complete(), text_of)


def test_logprobs_of_a_chat_are_plain_decodings(same):
    def look(answer):
        return [(c.token, c.logprob, [t.logprob for t in c.top_logprobs]) for c in answer.choices[0].logprobs.content]

    assert len(look(same(chat(logprobs=True, top_logprobs=2, max_tokens=8), look))) == 8


def test_streamed_logprobs_are_plain_decodings(same):
    def look(chunks):
        return [chunk.choices[0].logprobs and chunk.choices[0].logprobs.token_logprobs for chunk in chunks]

    assert len(same(streamed(complete(logprobs=1, max_tokens=8, stream=True)), look)) == 9


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_end_the_text(same, drafted, stream):
    whole = complete()(drafted.client()).choices[0].text
    stop = whole[20:23]
    request = complete(stop=[stop], stream=stream)
    look = text_of_chunks if stream else text_of
    text, reason = look(same(streamed(request) if stream else request, look))
    assert text == whole[: whole.index(stop)] and reason == "stop"


def test_a_seed_gives_plain_decodings_random_text(same):
    request = dict(temperature=1.5, max_tokens=60, extra_body={"repeat_penalty": 1.0, "top_k": 0, "min_p": 0.0})
    texts = {same(complete(seed=seed, **request), text_of).choices[0].text for seed in (1, 2, 1)}
    assert len(texts) == 2


def test_penalties_and_logit_bias_are_followed(same):
    text = same(complete(extra_body={"repeat_penalty": 1.3, "logit_bias": {str(ord("0")): -100}}), text_of).choices[0].text
    assert "0" not in text


def test_models_and_tokenize_work(same, pair):
    models = same(lambda client: client.models.list(), lambda answer: [m.id for m in answer.data])
    assert [m.id for m in models.data] == [str(pair.target)]
    tokens = same(lambda client: client.post("/../extras/tokenize", body={"input": "012"}, cast_to=object), lambda a: a)
    assert len(tokens["tokens"]) == 3
