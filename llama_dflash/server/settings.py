"""Options of the server: llama_cpp.server's and those of drafters, from the command line, the environment or a file."""

from __future__ import annotations

import dataclasses
import os
from typing import List, Literal, Optional, Union

import llama_cpp.server.settings as upstream
from pydantic import Field

from ..drafts import Draft, parse
from ..hub import as_hub_id

PROMPT_LOOKUP = "prompt-lookup-decoding"


class ServerSettings(upstream.ServerSettings):
    """Settings of the server itself."""

    interrupt_requests: bool = Field(
        default=False,
        description="Whether a new request ends the stream that is running, which then has an error. If not, it waits.",
    )
    max_queue: int = Field(
        default=64,
        ge=0,
        description="Requests that may wait for the model. More are answered at once, with 503.",
    )
    max_body_mb: float = Field(
        default=32,
        gt=0,
        description="The largest body of a request, in MiB. Larger ones are answered with 413.",
    )
    accept_any_model: bool = Field(
        default=False,
        description="Whether requests for models that do not exist are answered by the first one, or with 404.",
    )
    allowed_media_hosts: Optional[List[str]] = Field(
        default=None,
        description="Hosts that images of requests may be fetched from. None if not given; data: URLs always work.",
    )


class ModelSettings(upstream.ModelSettings):
    """Settings of one model and its drafter."""

    draft_model: Optional[str] = Field(
        default=None,
        description="What to speculate with: the path of a drafter for the model (a GGUF file or a published checkpoint) or its id on the Hub, "
        "ngram, mtp, auto, "
        f"several of these with commas between them, or {PROMPT_LOOKUP}, llama-cpp-python's own method.",
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
    draft_model_block: str = Field(
        default="whole",
        description="How much the drafter denoises in a round: its whole block, or short, no more than its tree can use.",
    )
    n_parallel: int = Field(
        default=1,
        ge=1,
        description="Requests that are answered at once, in one forward for all of them, each with n_ctx tokens. Of a server of one model.",
    )
    checkpoint_bytes: Optional[int] = Field(
        default=None,
        ge=0,
        description="For recurrent and hybrid models: the most memory for checkpoints of their states. 512 MiB if not given.",
    )

    rpc_timeout: Optional[float] = Field(
        default=None,
        gt=0,
        description="Seconds after which an RPC worker (rpc_servers) that does not answer is given up. 60 if not given.",
    )

    def drafters(self) -> List[Draft]:
        """The drafters that these settings describe: none for plain decoding and for llama-cpp-python's own method.

        Raises:
            ValueError: If there is no such file, or a setting has a wrong value or is none of these drafters'.
        """
        if self.draft_model is None or self.draft_model == PROMPT_LOOKUP:
            return []
        names = [self.draft_model] if os.path.exists(self.draft_model) else self.draft_model.split(",")
        drafters = [parse(name.strip())[0] for name in names]
        for draft in drafters:
            if draft.file and not os.path.exists(draft.file) and as_hub_id(draft.file) is None:
                raise ValueError(f"draft_model: no such file: {draft.file}, expected the path of a drafter or {PROMPT_LOOKUP}")
        fields = [{field.name for field in dataclasses.fields(draft)} for draft in drafters]
        given = {name[len("draft_model_") :]: getattr(self, name) for name in self.model_fields_set if name.startswith("draft_model_")}
        for name in given:
            if not any(name in known for known in fields):
                raise ValueError(f"draft_model_{name}: {self.draft_model} has no such setting")
        return [
            dataclasses.replace(draft, **{name: value for name, value in given.items() if name in known})
            for draft, known in zip(drafters, fields)
        ]


class Settings(ServerSettings, ModelSettings):
    """Settings of a server of one model."""


class ConfigFileSettings(ServerSettings):
    """Settings of a server of several models, of which one is loaded at a time."""

    models: List[ModelSettings] = Field(default=[], description="Model configs")
