"""langchain-community's wrappers: unchanged after install(), and ours with their `draft_model` field."""

import functools
import operator
import warnings

import pytest

from llama_dflash import DFlashDraft, NGramDraft, install

pytest.importorskip("langchain_community", reason='needs `pip install "llama-dflash[langchain]"`')
warnings.simplefilter("ignore", DeprecationWarning)

from langchain_community import chat_models, llms  # noqa: E402
from langchain_core.messages import HumanMessage  # noqa: E402
from pydantic import BaseModel, Field  # noqa: E402

from llama_dflash import langchain as ours  # noqa: E402

CODE = "import os\n\ndef read_json(path):\n"
QUESTION = "Anna buys 3 boxes of 12 pencils. How many pencils does she have?"
SETTINGS = dict(n_ctx=512, n_batch=64, n_threads=1, max_tokens=48, temperature=0.0, repeat_penalty=1.0, verbose=False)


def draft(shipped):
    return DFlashDraft(shipped["draft_model"], budget=8)


def settings(shipped, model_kwargs=None, **more):
    model_kwargs = {"n_threads_batch": 1, **(model_kwargs or {})}
    return {**SETTINGS, "model_path": shipped["model_path"], "model_kwargs": model_kwargs, **more}


@pytest.fixture(scope="module")
def llm(shipped):
    return ours.LlamaCpp(**settings(shipped, draft_model=draft(shipped)))


@pytest.fixture(scope="module")
def chat(shipped):
    return ours.ChatLlamaCpp(**settings(shipped, draft_model=draft(shipped)))


def drafted(wrapper):
    return wrapper.client.speculative_stats.accepted > 0


@pytest.fixture(scope="module")
def code(plain):
    return plain.create_completion(CODE, max_tokens=48, temperature=0.0)["choices"][0]["text"]


@pytest.fixture(scope="module")
def answer(plain):
    messages = [{"role": "user", "content": QUESTION}]
    return plain.create_chat_completion(messages, max_tokens=48, temperature=0.0)["choices"][0]["message"]["content"]


def test_invoke_stream_and_batch_write_plain_decodings_text(llm, code):
    assert llm.invoke(CODE) == code
    assert drafted(llm)
    assert "".join(llm.stream(CODE)) == code
    assert llm.batch([CODE, CODE]) == [code, code]


def test_chat_invoke_stream_and_batch_write_plain_decodings_text(chat, answer):
    assert chat.invoke(QUESTION).content == answer
    assert drafted(chat)
    assert "".join(chunk.content for chunk in chat.stream([HumanMessage(QUESTION)])) == answer
    assert [message.content for message in chat.batch([QUESTION, QUESTION])] == [answer, answer]


def test_drafts_of_the_text_itself_by_their_word(shipped, code, answer):
    llm = ours.LlamaCpp(**settings(shipped, draft_model="ngram"))
    assert llm.invoke(CODE) == code
    assert llm.client.draft_model == NGramDraft() and llm.client.speculative_stats.rounds > 0
    assert ours.ChatLlamaCpp(**settings(shipped, draft_model=["ngram"])).invoke(QUESTION).content == answer


def test_messages_tell_their_usage_streamed_and_not(chat):
    streamed = functools.reduce(operator.add, chat.stream([HumanMessage(QUESTION)]))
    usage = chat.invoke(QUESTION).usage_metadata
    assert streamed.usage_metadata == usage and min(usage.values()) > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_stop_strings_end_the_text(llm, code):
    stop = code.strip().split()[3]
    assert llm.invoke(CODE, stop=[stop]) == code[: code.index(stop)]


@pytest.mark.parametrize("wrapper", [llms.LlamaCpp, chat_models.ChatLlamaCpp])
def test_the_unchanged_wrappers_take_a_drafter_after_install(shipped, wrapper):
    install()
    made = wrapper(**settings(shipped, model_kwargs={"draft_model": draft(shipped)}))
    text = made.invoke(CODE)
    assert drafted(made)
    texts = [getattr(answer, "content", answer) for answer in (text, *made.batch([CODE] * 3))]  # a chat model's: in threads
    assert texts[1:] == [texts[0]] * 3


class Sum(BaseModel):
    """Adds two numbers."""

    a: int = Field(description="the first number")
    b: int = Field(description="the second number")


@pytest.fixture(scope="module")
def caller(shipped):
    kwargs = {"chat_format": "chatml-function-calling"}
    return ours.ChatLlamaCpp(**settings(shipped, draft_model=draft(shipped), max_tokens=96, model_kwargs=kwargs))


def test_tool_calls_have_the_tools_arguments(caller):
    choice = {"type": "function", "function": {"name": "Sum"}}
    message = caller.bind_tools([Sum], tool_choice=choice).invoke("Add 3 and 4.")
    assert drafted(caller)
    (call,) = message.tool_calls
    assert call["name"] == "Sum" and set(call["args"]) == {"a", "b"}


def test_the_chunks_of_a_tool_call_make_the_call(caller):
    choice = {"type": "function", "function": {"name": "Sum"}}
    bound = caller.bind_tools([Sum], tool_choice=choice)
    message = functools.reduce(operator.add, bound.stream("Add 3 and 4."))
    (streamed,), (whole,) = message.tool_calls, bound.invoke("Add 3 and 4.").tool_calls
    assert (streamed["name"], streamed["args"]) == (whole["name"], whole["args"]) and streamed["name"] == "Sum"
    assert message.usage_metadata["output_tokens"] > 0


def test_structured_output_is_an_object(caller):
    result = caller.with_structured_output(Sum).invoke("Add 3 and 4.")
    assert isinstance(result, Sum)


def test_a_wrong_drafter_is_a_sentence(shipped):
    with pytest.raises(ValueError, match="draft_model"):
        ours.LlamaCpp(**settings(shipped, draft_model=__file__))
