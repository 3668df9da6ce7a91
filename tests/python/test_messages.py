"""Chat messages as agents send them."""

import pytest

from llama_dflash.messages import MessageError, plain_messages

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def texts(*parts):
    return [{"type": "text", "text": part} for part in parts]


@pytest.mark.parametrize(
    "message, plain",
    [
        ({"role": "user", "content": "a"}, {"role": "user", "content": "a"}),
        ({"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "assistant", "content": "", "tool_calls": [CALL]}),
        ({"role": "assistant", "tool_calls": [CALL]}, {"role": "assistant", "content": "", "tool_calls": [CALL]}),
        ({"role": "assistant", "content": "a", "tool_calls": None, "refusal": None}, {"role": "assistant", "content": "a"}),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, {"role": "assistant", "content": "no"}),
        ({"role": "system", "content": texts("a", "b")}, {"role": "system", "content": "a\nb"}),
        ({"role": "tool", "content": texts("a"), "tool_call_id": "1"}, {"role": "tool", "content": "a", "tool_call_id": "1"}),
        ({"role": "user", "content": ["a", *texts("b")]}, {"role": "user", "content": "a\nb"}),
        ({"role": "user", "content": []}, {"role": "user", "content": ""}),
    ],
)
def test_contents_become_texts(message, plain):
    before = repr(message)
    assert plain_messages([message]) == [plain]
    assert repr(message) == before


def test_images_stay_for_who_can_see_them():
    message = {"role": "user", "content": [*texts("a"), {"type": "image_url", "image_url": "data:,"}]}
    assert plain_messages([message], keep_media=True) == [message]
    with pytest.raises(MessageError, match="messages.0.content.1: found a part of type 'image_url': this model reads text only"):
        plain_messages([message])


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_takes_parts_for_any_role_and_contents_that_are_not_there(kept, pair, stream):
    llm = kept(pair, pair.draft(budget=8), chat_format="chatml")

    def text(*messages):
        answer = llm.create_chat_completion(list(messages), temperature=0, max_tokens=20, stream=stream)
        if not stream:
            return answer["choices"][0]["message"]["content"]
        return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in answer)

    def talk(wrap, nothing):
        said = {"role": "assistant", "tool_calls": [CALL], **nothing}
        result = {"role": "tool", "tool_call_id": "1", "content": wrap("7")}
        return text({"role": "system", "content": wrap("Digits.")}, {"role": "user", "content": wrap("0123")}, said, result)

    expected = talk(lambda content: content, {"content": ""})
    assert talk(texts, {}) == talk(texts, {"content": None}) == expected != ""


def test_an_image_for_a_model_of_text_is_a_value_error(kept, pair):
    llm = kept(pair, chat_format="chatml")
    with pytest.raises(ValueError, match="this model reads text only"):
        llm.create_chat_completion([{"role": "user", "content": [{"type": "image_url", "image_url": "data:,"}]}])


def test_a_handler_of_the_callers_own_gets_what_the_caller_wrote(load, pair):
    seen = []
    llm = load(pair)
    llm.chat_handler = lambda messages, **request: seen.extend(messages)
    try:
        llm.create_chat_completion([{"role": "user", "content": [{"poem": 1}]}])
    finally:
        llm.chat_handler = None
    assert seen == [{"role": "user", "content": [{"poem": 1}]}]
