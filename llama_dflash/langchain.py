"""LangChain's wrappers of llama-cpp-python with a drafter: `ChatLlamaCpp` and `LlamaCpp` of langchain-community.

    from llama_dflash.langchain import ChatLlamaCpp
    chat = ChatLlamaCpp(model_path="target.gguf", draft_model="drafter.gguf")

They are the classes of langchain-community with one more argument. Importing this module calls `llama_dflash.install()`.
"""

from __future__ import annotations

import threading
from typing import Any

from ._install import install

try:
    from langchain_community import chat_models, llms
    from pydantic import PrivateAttr, model_validator
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


class ChatLlamaCpp(chat_models.ChatLlamaCpp):
    """langchain_community's ChatLlamaCpp with speculation.

    One more argument, draft_model: the path of a DFlash drafter made for the target, a `DFlashDraft` with settings, or None.
    """

    _draft_model = model_validator(mode="before")(_draft_model_to_kwargs)
    _one_at_a_time: Any = PrivateAttr(default_factory=threading.Lock)

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        """As upstream's, one call at a time: batch() runs them in threads, and a model has one memory."""
        with self._one_at_a_time:
            return super()._generate(*args, **kwargs)


class LlamaCpp(llms.LlamaCpp):
    """langchain_community's LlamaCpp with speculation.

    One more argument, draft_model: the path of a DFlash drafter made for the target, a `DFlashDraft` with settings, or None.
    """

    _draft_model = model_validator(mode="before")(_draft_model_to_kwargs)
