"""LlamaIndex's wrapper of llama-cpp-python with a drafter: `LlamaCPP` of llama-index-llms-llama-cpp.

    from llama_dflash.llama_index import LlamaCPP
    llm = LlamaCPP(model_path="target.gguf", draft_model="drafter.gguf")

It is the class of llama-index-llms-llama-cpp with one more argument. Importing this module calls `llama_dflash.install()`.
"""

from __future__ import annotations

from typing import Any, Dict, Optional

from ._install import install

install()

try:
    from llama_index.llms import llama_cpp as upstream
except ImportError as error:
    raise ImportError(
        f"llama_dflash.llama_index needs llama-index-llms-llama-cpp ({error}): pip install llama-index-core, then "
        "pip install --no-deps llama-index-llms-llama-cpp (its dependency llama-cpp-python would compile llama.cpp once more)"
    ) from error


class LlamaCPP(upstream.LlamaCPP):
    """llama-index-llms-llama-cpp's LlamaCPP with speculation."""

    def __init__(self, *args: Any, draft_model: Any = None, model_kwargs: Optional[Dict[str, Any]] = None, **kwargs: Any):
        """As upstream's, and:

        Args:
            draft_model: Whatever `Llama(draft_model=)` takes: the path of a drafter, "ngram", an object with settings, a list.
        """
        if draft_model is not None:
            model_kwargs = {**(model_kwargs or {}), "draft_model": draft_model}
        super().__init__(*args, model_kwargs=model_kwargs, **kwargs)
