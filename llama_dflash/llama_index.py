"""LlamaIndex's wrapper of llama-cpp-python with a drafter: `LlamaCPP` of llama-index-llms-llama-cpp.

    from llama_dflash.llama_index import LlamaCPP
    llm = LlamaCPP(model_path="target.gguf", draft_model="drafter.gguf")

It is the class of llama-index-llms-llama-cpp with two more arguments. Importing this module calls `llama_dflash.install()`.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

from ._install import install
from .batch import LlamaBatch

install()

try:
    from llama_index.core.base.llms.generic_utils import completion_response_to_chat_response
    from llama_index.core.base.llms.types import (
        ChatMessage,
        ChatResponse,
        ChatResponseAsyncGen,
        CompletionResponse,
        CompletionResponseAsyncGen,
        CompletionResponseGen,
    )
    from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
    from llama_index.llms import llama_cpp as upstream
except ImportError as error:
    raise ImportError(
        f"llama_dflash.llama_index needs llama-index-llms-llama-cpp ({error}): pip install llama-index-core, then "
        "pip install --no-deps llama-index-llms-llama-cpp (its dependency llama-cpp-python would compile llama.cpp once more)"
    ) from error


class LlamaCPP(upstream.LlamaCPP):
    """llama-index-llms-llama-cpp's LlamaCPP with speculation."""

    def __init__(
        self,
        *args: Any,
        draft_model: Any = None,
        n_parallel: Optional[int] = None,
        model_kwargs: Optional[Dict[str, Any]] = None,
        **kwargs: Any,
    ):
        """As upstream's, and:

        Args:
            draft_model: Whatever `Llama(draft_model=)` takes: the path of a drafter, "ngram", an object with settings, a list.
            n_parallel: So many texts that are written at once, from threads and by the async methods. The model is then a
                `LlamaBatch`.
        """
        ours = {name: value for name, value in (("draft_model", draft_model), ("n_parallel", n_parallel)) if value is not None}
        super().__init__(*args, model_kwargs={**(model_kwargs or {}), **ours}, **kwargs)

    def _request(self, prompt: str, formatted: bool) -> Dict[str, Any]:
        """Upstream writes whether it streams into settings that all threads share."""
        settings = {name: value for name, value in self.generate_kwargs.items() if name != "stream"}
        return {**settings, "prompt": prompt if formatted else self.completion_to_prompt(prompt)}

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return _completion(self._model(**self._request(prompt, formatted)))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        chunks = self._model(**self._request(prompt, formatted), stream=True)

        def stream() -> CompletionResponseGen:
            text = ""
            for chunk in chunks:
                text += chunk["choices"][0]["text"]
                yield _part(text, chunk)

        return stream()

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        if not isinstance(self._model, LlamaBatch):  # upstream's holds up the event loop
            return self.complete(prompt, formatted=formatted, **kwargs)
        return _completion(await self._model.acreate_completion(**self._request(prompt, formatted)))

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        request = self._request(prompt, formatted)

        async def stream() -> CompletionResponseAsyncGen:
            if not isinstance(self._model, LlamaBatch):
                for part in self.stream_complete(request["prompt"], formatted=True):
                    yield part
                return
            text, chunks = "", await self._model.acreate_completion(**request, stream=True)
            try:
                async for chunk in chunks:
                    text += chunk["choices"][0]["text"]
                    yield _part(text, chunk)
            finally:
                await chunks.aclose()

        return stream()

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        answer = await self.acomplete(self.messages_to_prompt(messages), formatted=True, **kwargs)
        return completion_response_to_chat_response(answer)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        parts = await self.astream_complete(self.messages_to_prompt(messages), formatted=True, **kwargs)

        async def stream() -> ChatResponseAsyncGen:
            async for part in parts:
                message = ChatMessage(role="assistant", content=part.text)
                yield ChatResponse(message=message, delta=part.delta, raw=part.raw)

        return stream()


def _completion(answer: Dict[str, Any]) -> CompletionResponse:
    return CompletionResponse(text=answer["choices"][0]["text"], raw=answer)


def _part(text: str, chunk: Dict[str, Any]) -> CompletionResponse:
    return CompletionResponse(delta=chunk["choices"][0]["text"], text=text, raw=chunk)
