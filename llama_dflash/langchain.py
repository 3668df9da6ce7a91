"""LangChain's wrappers of llama-cpp-python with a drafter: `ChatLlamaCpp` and `LlamaCpp` of langchain-community.

    from llama_dflash.langchain import ChatLlamaCpp
    chat = ChatLlamaCpp(model_path="target.gguf", draft_model="drafter.gguf")

They are the classes of langchain-community with two more arguments. Importing this module calls `llama_dflash.install()`.
"""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Iterator, List, Optional

from ._install import install
from .batch import LlamaBatch
from .chunks import Chunk, with_openais_tool_calls

try:
    from langchain_community import chat_models, llms
    from langchain_core.messages import AIMessageChunk
    from langchain_core.messages.ai import UsageMetadata
    from langchain_core.outputs import ChatGenerationChunk, ChatResult, Generation, LLMResult
    from pydantic import model_validator
except ImportError as error:
    raise ImportError(
        f'llama_dflash.langchain needs langchain-community ({error}): pip install "llama-dflash[langchain]"'
    ) from error

install()


_OURS = ("draft_model", "n_parallel")


def _ours_to_kwargs(values: Any) -> Any:
    """Our arguments go where both classes take arguments of Llama that they have no field for."""
    if not isinstance(values, dict) or not any(name in values for name in _OURS):
        return values
    others = {name: value for name, value in values.items() if name not in _OURS}
    ours = {name: values[name] for name in _OURS if name in values}
    return {**others, "model_kwargs": {**(values.get("model_kwargs") or {}), **ours}}


def _usage_metadata(usage: Dict[str, int]) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage["prompt_tokens"], output_tokens=usage["completion_tokens"], total_tokens=usage["total_tokens"]
    )


class _Streaming:
    """A Llama whose streamed tool calls LangChain can join, and that tells their usage."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm._front() if isinstance(llm, LlamaBatch) else llm
        self.usage: Dict[str, int] = {}

    def create_chat_completion(self, **request: Any) -> Iterator[Chunk]:
        for chunk in with_openais_tool_calls(self._llm.create_chat_completion(**request)):
            self.usage = self._llm.usage  # as long as the stream has the model
            yield chunk


class ChatLlamaCpp(chat_models.ChatLlamaCpp):
    """langchain_community's ChatLlamaCpp with speculation.

    Two more arguments: draft_model, whatever `Llama(draft_model=)` takes (the path of a drafter, "ngram", an object with settings, a
    list); and n_parallel, so many answers that are written at once, which makes `client` a `LlamaBatch`.
    Messages have usage_metadata, and streamed tool calls can be joined.
    """

    _ours = model_validator(mode="before")(_ours_to_kwargs)

    def _create_chat_result(self, response: Dict[str, Any]) -> ChatResult:
        result = super()._create_chat_result(response)
        for generation in result.generations:
            generation.message.usage_metadata = _usage_metadata(response["usage"])
        return result

    async def _agenerate(self, messages: Any, stop: Optional[List[str]] = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        """In the batch's threads, which end their work if the task is cancelled."""
        if not isinstance(self.client, LlamaBatch) or self.streaming:
            return await super()._agenerate(messages, stop, run_manager, **kwargs)
        request = {**self._get_parameters(stop), **kwargs}
        return self._create_chat_result(
            await self.client.acreate_chat_completion(messages=self._create_message_dicts(messages), **request)
        )

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        """As upstream's, and a last chunk with the usage."""
        streaming = _Streaming(self.client)
        yield from chat_models.ChatLlamaCpp._stream(self.model_copy(update={"client": streaming}), *args, **kwargs)
        yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=_usage_metadata(streaming.usage)))


class LlamaCpp(llms.LlamaCpp):
    """langchain_community's LlamaCpp with speculation.

    Two more arguments: draft_model, whatever `Llama(draft_model=)` takes (the path of a drafter, "ngram", an object with settings, a
    list); and n_parallel, so many texts that are written at once, which makes `client` a `LlamaBatch`.
    """

    _ours = model_validator(mode="before")(_ours_to_kwargs)

    def _generate(self, prompts: List[str], stop: Optional[List[str]] = None, run_manager: Any = None, **kwargs: Any) -> LLMResult:
        """Several prompts at once, where there is room for them."""
        if not isinstance(self.client, LlamaBatch) or len(prompts) < 2:
            return super()._generate(prompts, stop, run_manager, **kwargs)
        with ThreadPoolExecutor(self.client.n_parallel) as threads:
            calls = [
                threads.submit(contextvars.copy_context().run, self._call, prompt, stop=stop, run_manager=run_manager, **kwargs)
                for prompt in prompts
            ]
            return LLMResult(generations=[[Generation(text=call.result())] for call in calls])

    async def _agenerate(self, prompts: List[str], stop: Optional[List[str]] = None, run_manager: Any = None, **kwargs: Any) -> LLMResult:
        """In the batch's threads, which end their work if the task is cancelled."""
        if not isinstance(self.client, LlamaBatch) or self.streaming:
            return await super()._agenerate(prompts, stop, run_manager, **kwargs)
        request = {**self._get_parameters(stop), **kwargs}
        answers = await asyncio.gather(*(self.client.acreate_completion(prompt=prompt, **request) for prompt in prompts))
        return LLMResult(generations=[[Generation(text=answer["choices"][0]["text"])] for answer in answers])
