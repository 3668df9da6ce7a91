"""Requests in words of OpenAI's API that today's clients send and llama_cpp.server does not know, or ignores."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, List, Mapping, Optional

import llama_cpp
import llama_cpp.server.types as upstream
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from ..grammars import GrammarError, check_grammar
from ..json_schemas import json_schema_to_gbnf
from ..messages import is_media, plain_messages
from .errors import WrongRequest
from .media import MediaHosts
from .settings import ModelSettings

Request = Dict[str, Any]

MAX_TOOLS = 1024
_COPILOT = "/v1/engines/copilot-codex/completions"  # clients of which name no model

_n_choices = Field(default=1, ge=1, le=128, description="How many texts to write: one after the other.")
_top_k = Field(default=40, ge=0, le=2**31 - 1, description="Sample among the k most probable tokens; 0 for all.")


class StreamOptions(BaseModel):
    include_usage: Optional[bool] = Field(default=False, description="End a stream with a chunk that says its usage.")


class ChatCompletionRequest(upstream.CreateChatCompletionRequest):
    model_config = ConfigDict(allow_inf_nan=False)

    n: Optional[int] = _n_choices
    top_k: int = _top_k
    top_logprobs: Optional[int] = Field(default=None, ge=0, le=10_000)
    stream_options: Optional[StreamOptions] = None

    def model_dump(self, **how: Any) -> Dict[str, Any]:
        """What upstream's route calls the model with: `n`, which it takes out, under another name."""
        return {**super().model_dump(**how), "n_choices": self.n or 1}


class CompletionRequest(upstream.CreateCompletionRequest):
    model_config = ConfigDict(allow_inf_nan=False)

    n: Optional[int] = _n_choices
    top_k: int = _top_k
    logprobs: Optional[int] = Field(default=None, ge=0, le=10_000)
    stream_options: Optional[StreamOptions] = None

    _prompts: List[str] = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> CompletionRequest:
        if "best_of" in self.model_fields_set and (self.best_of or 1) != (self.n or 1):
            raise ValueError(
                f"best_of is {self.best_of} and n is {self.n}: this server does not choose among texts, expected the same "
                "number twice or no best_of. Ask for n texts and choose among them"
            )
        self._prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt or [""]
        self.prompt = self._prompts[0]  # upstream's route refuses several
        return self

    def model_dump(self, **how: Any) -> Dict[str, Any]:
        """What upstream's route calls the model with: all prompts, and `n`, which it takes out, under another name."""
        return {**super().model_dump(**how), "n_choices": self.n or 1, "prompts": self._prompts}


def teach_upstream() -> None:
    """Makes upstream's routes, which are defined when llama_cpp.server.app is imported, take these requests."""
    upstream.CreateCompletionRequest = CompletionRequest  # type: ignore[misc]
    upstream.CreateChatCompletionRequest = ChatCompletionRequest  # type: ignore[misc]


class Words:
    """Says requests in upstream's words, after checking what needs no model.

    `models` are the server's, by name, the default one first.
    """

    def __init__(self, models: Mapping[str, ModelSettings], accept_any_model: bool, media: MediaHosts) -> None:
        self._models, self._any_model, self._media = models, accept_any_model, media

    def __call__(self, scope: Dict[str, Any], request: Request) -> Request:
        """The request that upstream is to see.

        Raises:
            WrongRequest, MessageError, GrammarError: If it can't be answered.
        """
        settings = self._model(scope, request)
        if scope["path"].endswith("/embeddings") and not settings.embedding:
            raise WrongRequest("this model makes no embeddings: --embedding true has it make them", "model")
        if not scope["path"].endswith("/completions"):
            return request
        _check_lists(request)
        check_grammar_text(request.get("grammar"))
        if not scope["path"].endswith("/chat/completions"):
            return request
        return self._chat(request, sees_images=settings.clip_model_path is not None)

    def _model(self, scope: Dict[str, Any], request: Request) -> ModelSettings:
        name = request.get("model")
        default = next(iter(self._models))
        if isinstance(name, str) and name not in self._models and not self._any_model and not scope["path"].endswith(_COPILOT):
            raise WrongRequest(
                f"the model {name[:80]!r} does not exist: /v1/models lists those that do. (--accept_any_model has requests for "
                "unknown models answered by the first one.)",
                "model",
                status=404,
                code="model_not_found",
            )
        name = name if isinstance(name, str) and name in self._models else default
        scope["llama_dflash.model"] = name
        return self._models[name]

    def _chat(self, request: Request, sees_images: bool) -> Request:
        request = in_upstreams_words(request)
        if request.get("messages") is not None:
            request["messages"] = plain_messages(request["messages"], keep_media=sees_images)
            for url in _image_urls(request["messages"]):
                self._media.check(url)
        _check_tools(request)
        for schema in _schemas(request):
            check_schema(schema)
        return request


def in_upstreams_words(request: Request) -> Request:
    """A copy of a chat's request without the newer words.

    - response_format {"type": "json_schema", "json_schema": {"schema": S}} is {"type": "json_object", "schema": S}
    - max_completion_tokens is max_tokens
    - tool_choice "required", where there is one tool, is the choice of that tool
    - role "developer" is "system"
    - a tool without parameters has none
    """
    request = dict(request)
    if isinstance(request.get("messages"), list):
        request["messages"] = [_with_older_role(message) for message in request["messages"]]
    response_format = request.get("response_format")
    if isinstance(response_format, dict) and isinstance(response_format.get("json_schema"), dict):
        request["response_format"] = {"type": "json_object", "schema": response_format["json_schema"].get("schema")}
    if "max_completion_tokens" in request:
        n_tokens = request.pop("max_completion_tokens")
        if request.get("max_tokens") is None:
            request["max_tokens"] = n_tokens
    tools = request.get("tools")
    if isinstance(tools, list):
        request["tools"] = tools = [_with_parameters(tool) for tool in tools]
    if request.get("tool_choice") == "required" and isinstance(tools, list) and len(tools) == 1 and _name_of(tools[0]):
        request["tool_choice"] = {"type": "function", "function": {"name": _name_of(tools[0])}}
    return request


def _with_older_role(message: Any) -> Any:
    return {**message, "role": "system"} if isinstance(message, dict) and message.get("role") == "developer" else message


def _with_parameters(tool: Any) -> Any:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or function.get("parameters") is not None:
        return tool
    return {**tool, "function": {**_without_nones(function), "parameters": {"type": "object", "properties": {}}}}


def _without_nones(values: Dict[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _name_of(tool: Any) -> Optional[str]:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _image_urls(messages: List[Request]) -> Iterator[Any]:
    for message in messages:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if is_media(part):
                image = part.get("image_url")
                yield image.get("url") if isinstance(image, dict) else image


def _schemas(request: Request) -> Iterator[Any]:
    """The JSON schemas that the answer will have to follow."""
    response_format, choice = request.get("response_format"), request.get("tool_choice")
    if isinstance(response_format, dict) and response_format.get("schema") is not None:
        yield response_format["schema"]
    tools = request.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        if choice == "required" or (_name_of(choice) is not None and _name_of(choice) == _name_of(tool)):
            yield tool["function"].get("parameters")


# ---------------------------------------------------------------- checks


def check_grammar_text(grammar: Any) -> None:
    """Raises GrammarError if a grammar is wrong, as far as that can be seen without a model."""
    if isinstance(grammar, str):
        check_grammar(llama_cpp.LlamaGrammar.from_string(grammar, verbose=False))


def check_schema(schema: Any) -> None:
    """Raises GrammarError if a JSON schema is too large for a grammar. One that has no grammar at all is no error: upstream
    then lets the model write any JSON."""
    try:
        grammar = json_schema_to_gbnf(json.dumps(schema))
    except GrammarError:
        raise
    except Exception:
        return
    check_grammar_text(grammar)


def _check_lists(request: Request) -> None:
    """Of a list with a million wrong things, the first is named: pydantic would name all of them, in several ways."""
    for name, kind, wanted in (("prompt", str, "a valid string"), ("stop", str, "a valid string")):
        for i, one in enumerate(request[name]) if isinstance(request.get(name), list) else ():
            if not isinstance(one, kind):
                raise WrongRequest(f"{name}.{i}: found {_shown(one)}, expected {wanted}", f"{name}.{i}")
    for name in ("tools", "functions"):
        if isinstance(request.get(name), list) and len(request[name]) > MAX_TOOLS:
            raise WrongRequest(f"{name}: found {len(request[name])}, expected {MAX_TOOLS} at most", name)
    bias = request.get("logit_bias")
    for token, value in bias.items() if isinstance(bias, dict) else ():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e9:
            raise WrongRequest(f"logit_bias.{token[:30]}: found {_shown(value)}, expected a number up to 1e9", "logit_bias")


def _check_tools(request: Request) -> None:
    choice, tools = request.get("tool_choice"), request.get("tools")
    for i, tool in enumerate(tools if isinstance(tools, list) else ()):
        if _name_of(tool) is None:
            raise WrongRequest(f"tools.{i}: found {_shown(tool)}, expected a function with a name", f"tools.{i}")
    if choice == "required" and not (isinstance(tools, list) and tools):
        raise WrongRequest('tool_choice is "required", but there are no tools', "tool_choice")
    wanted = _name_of(choice)
    if wanted is not None and wanted not in map(_name_of, tools if isinstance(tools, list) else ()):
        raise WrongRequest(f"Tool choice {wanted!r} not found in tools.", "tool_choice")


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:60] + "…"
