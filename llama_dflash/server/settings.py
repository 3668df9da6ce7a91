"""Options of the server: llama_cpp.server's and those of drafters, from the command line, the environment or a file."""

from __future__ import annotations

import os
from typing import List, Literal, Optional, Union

import llama_cpp.server.settings as upstream
from llama_cpp.server.settings import ServerSettings
from pydantic import Field

from ..draft import DFlashDraft

PROMPT_LOOKUP = "prompt-lookup-decoding"


class ModelSettings(upstream.ModelSettings):
    """Settings of one model and its drafter."""

    draft_model: Optional[str] = Field(
        default=None,
        description="What to speculate with: the path of a DFlash drafter made for the model (a GGUF file or a "
        f"published checkpoint), or {PROMPT_LOOKUP}, llama-cpp-python's own method.",
    )
    draft_model_budget: Union[Literal["auto"], int] = Field(
        default="auto",
        description="Draft nodes in every round: a number, or auto to choose by measured costs.",
    )
    draft_model_mode: Literal["tree", "chain"] = Field(
        default="tree",
        description="Verify a tree of continuations or the most probable one: tree or chain.",
    )
    draft_model_context: int = Field(
        default=4096,
        description="Positions of the text that the drafter remembers.",
    )
    draft_model_n_gpu_layers: Optional[int] = Field(
        default=None,
        description="Layers of the drafter on the GPU, -1 for all. As many as the model's if not given.",
    )
    draft_model_type_k: Optional[int] = Field(
        default=None,
        description="ggml type of the drafter's key cache. F16 if not given.",
    )
    draft_model_type_v: Optional[int] = Field(
        default=None,
        description="ggml type of the drafter's value cache. F16 if not given.",
    )
    checkpoint_bytes: Optional[int] = Field(
        default=None,
        ge=0,
        description="For recurrent and hybrid models: the most memory for checkpoints of their states. 512 MiB if not given.",
    )

    def drafter(self) -> Optional[DFlashDraft]:
        """The DFlash drafter that these settings describe, if they do.

        Raises:
            ValueError: If there is no such file, or a setting has a wrong value.
        """
        if self.draft_model is None or self.draft_model == PROMPT_LOOKUP:
            return None
        if not os.path.exists(self.draft_model):
            raise ValueError(
                f"draft_model: no such file: {self.draft_model}, expected the path of a DFlash drafter or {PROMPT_LOOKUP}"
            )
        return DFlashDraft(
            self.draft_model,
            budget=self.draft_model_budget,
            mode=self.draft_model_mode,
            context=self.draft_model_context,
            n_gpu_layers=self.draft_model_n_gpu_layers,
            type_k=self.draft_model_type_k,
            type_v=self.draft_model_type_v,
        )


class Settings(ServerSettings, ModelSettings):
    """Settings of a server of one model."""


class ConfigFileSettings(ServerSettings):
    """Settings of a server of several models, of which one is loaded at a time."""

    models: List[ModelSettings] = Field(default=[], description="Model configs")
