"""LangChain's batch and LlamaIndex's async calls over a LlamaBatch (n_parallel=): the texts of a Llama, written at once."""

import asyncio
import time
import warnings

import pytest

from llama_dflash import Llama, LlamaBatch, install

warnings.simplefilter("ignore", DeprecationWarning)
PROMPTS = ["import os\n\ndef read_json(path):\n", "class Stack:\n", "def fibonacci(n):\n", "for i in range(", "x = ["]
SETTINGS = dict(n_ctx=512, n_batch=64, n_threads=1, max_tokens=32, temperature=0.0, repeat_penalty=1.0, verbose=False)
THREADS = dict(n_threads_batch=1)


@pytest.fixture(scope="module")
def texts(plain):
    written = []
    for prompt in PROMPTS:
        plain.reset()
        written.append(plain.create_completion(prompt, max_tokens=32, temperature=0.0)["choices"][0]["text"])
    return written


@pytest.fixture(scope="module")
def answers(plain):
    written = []
    for prompt in PROMPTS:
        plain.reset()
        answer = plain.create_chat_completion([{"role": "user", "content": prompt}], max_tokens=32, temperature=0.0)
        written.append(answer["choices"][0]["message"]["content"])
    return written


def most_at_once(batch):
    """Counts the lanes of its rounds."""
    sizes, start = [], batch._lane_engine.start_all
    batch._lane_engine.start_all = lambda requests: (sizes.append(len(requests)), start(requests))[1]
    return sizes


def test_a_llama_of_several_texts_is_a_llama_batch(shipped):
    with Llama(shipped["model_path"], n_parallel=2, verbose=False) as llm:
        assert isinstance(llm, LlamaBatch) and llm.n_parallel == 2
        assert llm.create_completion("x", max_tokens=2)["usage"]["completion_tokens"] <= 2


class TestLangChain:
    @pytest.fixture(scope="class")
    def ours(self, shipped):
        pytest.importorskip("langchain_community", reason='needs `pip install "llama-dflash[langchain]"`')
        from llama_dflash import langchain

        return langchain

    @pytest.fixture(scope="class")
    def llm(self, ours, shipped):
        return ours.LlamaCpp(**SETTINGS, **shipped, n_parallel=4, model_kwargs=THREADS)

    @pytest.fixture(scope="class")
    def chat(self, ours, shipped):
        return ours.ChatLlamaCpp(**SETTINGS, **shipped, n_parallel=4, model_kwargs=THREADS)

    def test_batch_and_abatch_of_texts(self, llm, texts):
        sizes = most_at_once(llm.client)
        assert llm.batch(PROMPTS) == texts
        assert max(sizes) == 4
        assert asyncio.run(llm.abatch(PROMPTS)) == texts
        assert llm.invoke(PROMPTS[0]) == texts[0] and "".join(llm.stream(PROMPTS[1])) == texts[1]

    def test_batch_and_abatch_of_chats(self, chat, answers):
        sizes = most_at_once(chat.client)
        assert [message.content for message in chat.batch(PROMPTS)] == answers
        assert max(sizes) >= 3
        messages = asyncio.run(chat.abatch(PROMPTS))
        assert [message.content for message in messages] == answers and messages[0].usage_metadata["total_tokens"] > 0

    def test_streams_of_chats_in_threads_tell_their_own_usage(self, chat, answers):
        import functools
        import operator
        from concurrent.futures import ThreadPoolExecutor

        def ask(prompt):
            return functools.reduce(operator.add, chat.stream(prompt))

        with ThreadPoolExecutor(5) as pool:
            messages = list(pool.map(ask, PROMPTS))
        assert [message.content for message in messages] == answers
        expected = [chat.invoke(prompt).usage_metadata for prompt in PROMPTS]
        assert [message.usage_metadata for message in messages] == expected

    def test_async_streams(self, chat, answers):
        async def read(prompt):
            return "".join([chunk.content async for chunk in chat.astream(prompt)])

        async def main():
            return await asyncio.gather(*map(read, PROMPTS))

        assert asyncio.run(main()) == answers

    def test_a_cancelled_task_frees_its_lane(self, ours, chat):
        async def main():
            task = asyncio.create_task(chat.ainvoke(PROMPTS[0], max_tokens=400))
            while chat.client._scheduler.n_running == 0:
                await asyncio.sleep(0.002)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(main())
        end = time.monotonic() + 1.0
        while chat.client._scheduler.n_running > 0:
            assert time.monotonic() < end
            time.sleep(0.005)

    def test_the_unchanged_wrappers_take_n_parallel_after_install(self, shipped, answers):
        pytest.importorskip("langchain_community", reason='needs `pip install "llama-dflash[langchain]"`')
        from langchain_community import chat_models

        install()
        kwargs = {**THREADS, "draft_model": shipped["draft_model"], "n_parallel": 3}
        chat = chat_models.ChatLlamaCpp(**SETTINGS, model_path=shipped["model_path"], model_kwargs=kwargs)
        assert isinstance(chat.client, LlamaBatch)
        assert [message.content for message in chat.batch(PROMPTS)] == answers


class TestLlamaIndex:
    @pytest.fixture(scope="class")
    def llm(self, shipped):
        pytest.importorskip("llama_index.llms.llama_cpp", reason="needs llama-index-core and llama-index-llms-llama-cpp")
        from llama_dflash.llama_index import LlamaCPP

        settings = dict(temperature=0.0, max_new_tokens=32, context_window=512, verbose=False)
        kwargs = dict(THREADS, n_threads=1, n_batch=64)
        return LlamaCPP(**shipped, n_parallel=4, model_kwargs=kwargs, **settings)

    def test_async_calls_are_written_at_once(self, llm, texts):
        sizes = most_at_once(llm._model)

        async def streamed(prompt):
            parts = [part async for part in await llm.astream_complete(prompt, formatted=True)]
            assert "".join(part.delta for part in parts) == parts[-1].text
            return parts[-1].text

        async def main():
            whole = await asyncio.gather(*(llm.acomplete(prompt, formatted=True) for prompt in PROMPTS))
            return [one.text for one in whole], await asyncio.gather(*map(streamed, PROMPTS))

        assert asyncio.run(main()) == (texts, texts)
        assert max(sizes) == 4
        assert llm.metadata.context_window == 512

    def test_async_chats_answer_and_stream(self, llm):
        from llama_index.core.llms import ChatMessage

        async def main():
            messages = [ChatMessage(role="user", content="How many pencils?")]
            answer = (await llm.achat(messages)).message.content
            parts = [part async for part in await llm.astream_chat(messages)]
            return answer, parts[-1].message.content, "".join(part.delta for part in parts)

        answer, *streamed = asyncio.run(main())
        assert answer and streamed == [answer, answer] and answer == llm.chat([ChatMessage(role="user", content="How many pencils?")]).message.content
