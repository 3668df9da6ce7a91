"""Loads the models of a server, each with its drafter."""

from __future__ import annotations

import types
from typing import Any, Dict, List, Mapping, Type

import llama_cpp
import llama_cpp.server.model as upstream

from ._names import names_in
from .media import MediaHosts
from .served import ServedBatch, ServedLlama
from .settings import ModelSettings


class LlamaProxy(upstream.LlamaProxy):
    """llama_cpp.server's proxy, which keeps the model of the last request loaded.

    Raises:
        ValueError: If a model's drafter is missing, or the first model or its drafter does not load.
    """

    def __init__(self, models: List[ModelSettings]) -> None:
        for settings in models:
            settings.drafters()  # said now, not when somebody asks for the model
            if settings.n_parallel > 1 and len(models) > 1:
                raise ValueError(
                    f"n_parallel is {settings.n_parallel}, but the server has {len(models)} models, of which one is loaded at a time: "
                    "leave it out, or start a server for each"
                )
        super().__init__(models)

    @property
    def models(self) -> Mapping[str, ModelSettings]:
        """Every model's settings by its name, the default model first."""
        return self._model_settings_dict

    @property
    def n_parallel(self) -> int:
        """Requests that are answered at once."""
        return max(settings.n_parallel for settings in self.models.values())

    @staticmethod
    def load_llama_from_model_settings(settings: ModelSettings) -> llama_cpp.Llama:
        """Upstream's loader, to which llama_cpp.Llama is a class that knows the drafter.

        Raises:
            ValueError: If the model or its drafter does not load.
        """
        own = _own_arguments(settings)
        stock = settings.model_copy(update={"draft_model": None}) if "draft_model" in own else settings
        with names_in(upstream, llama_cpp=_llama_cpp_with(_llama_class(own))):
            return upstream.LlamaProxy.load_llama_from_model_settings(stock)


def proxy_class(media: MediaHosts) -> Type[LlamaProxy]:
    """A LlamaProxy whose models load images from where `media` allows."""

    class WithMedia(LlamaProxy):
        @staticmethod
        def load_llama_from_model_settings(settings: ModelSettings) -> llama_cpp.Llama:
            llama = LlamaProxy.load_llama_from_model_settings(settings)
            if hasattr(llama.chat_handler, "load_image"):
                llama.chat_handler.load_image = media.load
            return llama

    return WithMedia


def _own_arguments(settings: ModelSettings) -> Dict[str, Any]:
    """Arguments of our Llama that upstream's loader does not know, or has another default for."""
    own: Dict[str, Any] = {}
    if settings.checkpoint_bytes is not None:
        own["checkpoint_bytes"] = settings.checkpoint_bytes
    if settings.n_parallel > 1:
        own["n_parallel"] = settings.n_parallel
        if "embedding" not in settings.model_fields_set:
            own["embedding"] = False
    if settings.rpc_timeout is not None:
        own["rpc_timeout"] = settings.rpc_timeout
    drafters = settings.drafters()
    if not drafters:
        return own
    own["draft_model"] = drafters if len(drafters) > 1 else drafters[0]
    # upstream's defaults do not suit a drafter: it drafts best with flash attention (docs/exactness.md), and
    # logits_all keeps n_ctx x n_vocab logits for the few requests that want logprobs
    if "flash_attn" not in settings.model_fields_set:
        own["flash_attn"] = None
    if "logits_all" not in settings.model_fields_set:
        own["logits_all"] = False
    return own


def _llama_class(own: Dict[str, Any]) -> Type[llama_cpp.Llama]:
    served: Type[Any] = ServedBatch if "n_parallel" in own else ServedLlama

    class Configured(served):  # type: ignore[misc, valid-type]
        logits_on_request = own.get("logits_all") is False

        def __init__(self, model_path: str, **kwargs: Any) -> None:
            super().__init__(model_path, **{**kwargs, **own})

    return Configured


def _llama_cpp_with(llama: Type[llama_cpp.Llama]) -> types.SimpleNamespace:
    return types.SimpleNamespace(**{**vars(llama_cpp), "Llama": llama})
