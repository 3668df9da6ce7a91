"""langchain-llama-cpp, a client of llama.cpp's server, asks ours: what it sends is answered, with the texts of plain decoding."""

import asyncio
import functools
import operator
import sys
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="needs the test extra: pip install '.[test]'")
pytest.importorskip("langchain_llama_cpp", reason="needs pip install langchain-llama-cpp")

sys.path.append(str(Path(__file__).parents[1] / "server"))

from langchain_llama_cpp import ChatLlama, LlamaInvalidRequestError, LlamaModelNotFoundError  # noqa: E402
from langchain_core.messages import HumanMessage  # noqa: E402
from pydantic import BaseModel, Field  # noqa: E402
from servers import Server, arguments  # noqa: E402

QUESTION = "Anna buys 3 boxes of 12 pencils. How many pencils does she have?"
OPTIONS = dict(
    n_ctx=512, n_threads=1, n_threads_batch=1, flash_attn=True, chat_format="chatml-function-calling", accept_any_model=True
)


class Sum(BaseModel):
    """Adds two numbers."""

    a: int = Field(description="the first number")
    b: int = Field(description="the second number")


def ask(server) -> ChatLlama:
    return ChatLlama(
        model="any", base_url=server.url, temperature=0.0, max_tokens=48, repeat_penalty=1.0, max_retries=0, timeout=60
    )


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("langchain-server")
    servers = []

    def get(**options):
        servers.append(Server(folder / f"{len(servers)}.log", *arguments(**OPTIONS, **options)))
        return servers[-1]

    yield get
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def plain(start, shipped):
    """Asks the target alone."""
    return ask(start(model=shipped["model_path"]))


@pytest.fixture(scope="module")
def chat(start, shipped):
    """Asks the target with its drafter."""
    options = dict(model=shipped["model_path"], draft_model=shipped["draft_model"], draft_model_budget=8)
    return ask(start(**options, interrupt_requests=False))


@pytest.fixture(scope="module")
def answer(plain):
    return plain.invoke(QUESTION).content


def test_invoke_writes_the_text_and_tells_what_was_drafted(chat, answer):
    message = chat.invoke(QUESTION)
    assert message.content == answer
    assert message.response_metadata["timings"]["draft_n_accepted"] > 0
    assert message.usage_metadata["output_tokens"] > 0


def test_stream_batch_and_ainvoke_write_the_text(chat, answer):
    assert "".join(chunk.content for chunk in chat.stream(QUESTION)) == answer
    assert [message.content for message in chat.batch([QUESTION, QUESTION])] == [answer, answer]
    assert asyncio.run(chat.ainvoke(QUESTION)).content == answer


def test_stop_strings_and_grammars_are_followed(chat, answer):
    stop = answer.split()[1]
    assert chat.invoke(QUESTION, stop=[stop]).content.strip() == answer[: answer.index(stop)].strip()
    assert chat.invoke(QUESTION, grammar='root ::= "yes" | "no"').content in ("yes", "no")


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_the_same_object(chat, plain, method):
    results = [client.with_structured_output(Sum, method=method).invoke(QUESTION) for client in (chat, plain)]
    assert isinstance(results[0], Sum)
    assert results[0] == results[1]


@pytest.mark.parametrize("choice", ["Sum", "required", "auto"])
def test_a_tool_is_called_with_the_same_arguments(chat, plain, choice):
    messages = [client.bind_tools([Sum], tool_choice=choice).invoke("Add 3 and 4.") for client in (chat, plain)]
    calls = [[(call["name"], call["args"]) for call in message.tool_calls] for message in messages]
    assert calls[0] == calls[1]
    assert choice == "auto" or [name for name, _ in calls[0]] == ["Sum"]


def test_a_request_larger_than_the_context_is_the_clients_error(chat):
    with pytest.raises(LlamaInvalidRequestError, match="maximum context length is 512"):
        chat.invoke(QUESTION * 50)


def test_what_llama_swap_answers_is_not_there(chat):  # docs/langchain.md says so
    with pytest.raises(LlamaModelNotFoundError, match="/upstream/any/props"):
        chat.get_server_defaults()


def joined(chunks):
    return functools.reduce(operator.add, chunks)


def test_a_stream_tells_its_usage_and_what_was_drafted(chat):
    streamed, answered = joined(chat.stream(QUESTION)), chat.invoke(QUESTION)
    assert streamed.usage_metadata["input_tokens"] == answered.usage_metadata["input_tokens"] > 0
    assert streamed.usage_metadata["output_tokens"] == answered.usage_metadata["output_tokens"] > 0
    assert streamed.response_metadata["timings"]["draft_n_accepted"] > 0


@pytest.mark.parametrize("choice", ["Sum", "auto"])
def test_the_chunks_of_a_tool_call_make_the_call(chat, choice):
    caller = chat.bind_tools([Sum], tool_choice=choice)
    streamed, answered = joined(caller.stream("Add 3 and 4.")), caller.invoke("Add 3 and 4.")
    (chunks,), (whole,) = streamed.tool_calls, answered.tool_calls
    assert (chunks["name"], chunks["args"]) == (whole["name"], whole["args"]) and chunks["name"] == "Sum"
    assert chunks["id"] and streamed.usage_metadata == answered.usage_metadata


@pytest.fixture(scope="module")
def openais(chat):
    """OpenAI's own client of LangChain."""
    ChatOpenAI = pytest.importorskip("langchain_openai", reason="needs the test extra: pip install '.[test]'").ChatOpenAI
    settings = dict(model="any", api_key="none", temperature=0.0, max_tokens=48, max_retries=0, timeout=60)
    return ChatOpenAI(base_url=f"{chat.base_url.rstrip('/')}/v1", extra_body={"repeat_penalty": 1.0}, **settings)


def test_chat_openai_gets_text_usage_and_tool_calls_streamed_and_not(openais, answer):
    streamed, answered = joined(openais.stream(QUESTION, stream_usage=True)), openais.invoke(QUESTION)
    assert streamed.content == answered.content == answer
    numbers = [[m.usage_metadata[key] for key in ("input_tokens", "output_tokens")] for m in (streamed, answered)]
    assert numbers[0] == numbers[1] and min(numbers[0]) > 0
    assert not joined(openais.stream(QUESTION, stream_usage=False)).usage_metadata

    for choice in ("Sum", "auto"):
        caller = openais.bind_tools([Sum], tool_choice=choice)
        calls = joined(caller.stream("Add 3 and 4.")).tool_calls, caller.invoke("Add 3 and 4.").tool_calls
        assert calls[0][0]["args"] == calls[1][0]["args"] and [c[0]["name"] for c in calls] == ["Sum", "Sum"]


def test_chat_openai_gets_n_texts(openais):
    (choices,) = openais.generate([[HumanMessage(QUESTION)]], n=2, temperature=1.5, seed=3).generations
    assert len({choice.text for choice in choices}) == 2
