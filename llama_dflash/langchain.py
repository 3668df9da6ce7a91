"""LangChain's wrappers of llama-cpp-python with a drafter: `ChatLlamaCpp` and `LlamaCpp` of langchain-community.

    from llama_dflash.langchain import ChatLlamaCpp
    chat = ChatLlamaCpp(model_path="target.gguf", draft_model="drafter.gguf")

They are the classes of langchain-community with one more argument. Importing this module calls `llama_dflash.install()`.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator

from ._install import install
from .chunks import Chunk, with_openais_tool_calls

try:
    from langchain_community import chat_models, llms
    from langchain_core.messages import AIMessageChunk
    from langchain_core.messages.ai import UsageMetadata
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from pydantic import model_validator
except ImportError as error:
    raise ImportError(
        f'llama_dflash.langchain needs langchain-community ({error}): pip install "llama-dflash[langchain]"'
    ) from error

install()


def _draft_model_to_kwargs(values: Any) -> Any:
    """`draft_model` goes where both classes take arguments of Llama that they have no field for."""
    if not isinstance(values, dict) or "draft_model" not in values:
        return values
    others = {name: value for name, value in values.items() if name != "draft_model"}
    return {**others, "model_kwargs": {**(values.get("model_kwargs") or {}), "draft_model": values["draft_model"]}}


def _usage_metadata(usage: Dict[str, int]) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage["prompt_tokens"], output_tokens=usage["completion_tokens"], total_tokens=usage["total_tokens"]
    )


class _Streaming:
    """A Llama whose streamed tool calls LangChain can join, and that tells their usage."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self.usage: Dict[str, int] = {}

    def create_chat_completion(self, **request: Any) -> Iterator[Chunk]:
        for chunk in with_openais_tool_calls(self._llm.create_chat_completion(**request)):
            self.usage = self._llm.usage  # as long as the stream has the model
            yield chunk


class ChatLlamaCpp(chat_models.ChatLlamaCpp):
    """langchain_community's ChatLlamaCpp with speculation.

    One more argument, draft_model: whatever `Llama(draft_model=)` takes: the path of a drafter, "ngram", an object with settings, a list.
    Messages have usage_metadata, and streamed tool calls can be joined.
    """

    _draft_model = model_validator(mode="before")(_draft_model_to_kwargs)

    def _create_chat_result(self, response: Dict[str, Any]) -> ChatResult:
        result = super()._create_chat_result(response)
        for generation in result.generations:
            generation.message.usage_metadata = _usage_metadata(response["usage"])
        return result

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        """As upstream's, and a last chunk with the usage."""
        streaming = _Streaming(self.client)
        yield from chat_models.ChatLlamaCpp._stream(self.model_copy(update={"client": streaming}), *args, **kwargs)
        yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=_usage_metadata(streaming.usage)))


class LlamaCpp(llms.LlamaCpp):
    """langchain_community's LlamaCpp with speculation.

    One more argument, draft_model: whatever `Llama(draft_model=)` takes: the path of a drafter, "ngram", an object with settings, a list.
    """

    _draft_model = model_validator(mode="before")(_draft_model_to_kwargs)
