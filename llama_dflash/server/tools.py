"""`tool_choice: "required"` with several tools: the model writes one call, whose form a JSON schema holds it to."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any, Dict, List, Tuple

from llama_cpp import LlamaGrammar

Tool = Dict[str, Any]
Message = Dict[str, Any]

_ANY_OBJECT = {"type": "object"}
_BEGUN = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(.*)', re.DOTALL)


def schema_of_call(tools: List[Tool]) -> Dict[str, Any]:
    """The JSON schema of {"name": a tool's, "arguments": as that tool has them}."""
    functions = [tool["function"] for tool in tools]
    return {
        "$defs": {f"tool_{i}": _arguments(function, f"tool_{i}") for i, function in enumerate(functions)},
        "anyOf": [_call(function["name"], f"#/$defs/tool_{i}") for i, function in enumerate(functions)],
    }


def _call(name: str, arguments: str) -> Dict[str, Any]:
    properties = {"name": {"enum": [name]}, "arguments": {"$ref": arguments}}
    return {"type": "object", "properties": properties, "required": ["name", "arguments"]}


def _arguments(function: Dict[str, Any], place: str) -> Any:
    schema = function.get("parameters") or _ANY_OBJECT
    try:
        LlamaGrammar.from_json_schema(json.dumps(schema), verbose=False)
    except Exception:  # what upstream does with a schema that it has no grammar for: any arguments
        return _ANY_OBJECT
    return _moved(schema, f"#/$defs/{place}")


def _moved(schema: Any, place: str) -> Any:
    """A schema that stands at `place` of another one: what it refers to in itself is there now."""
    if isinstance(schema, list):
        return [_moved(one, place) for one in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, place) for key, value in schema.items()}
    if isinstance(schema.get("$ref"), str) and schema["$ref"].startswith("#"):
        moved["$ref"] = place + schema["$ref"][1:]
    return moved


def in_words(tools: List[Tool]) -> str:
    """What a model is told that has no template for tools."""
    described = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return f'You have these functions:\n{described}\nCall one of them: {{"name": its name, "arguments": {{...}}}}'


def as_tool_call(answer: Dict[str, Any]) -> Dict[str, Any]:
    """A chat's answer whose text is a call, as one that has the call. If max_tokens cut the text its arguments are cut,
    too, and finish_reason says so ("length")."""
    choice = answer["choices"][0]
    text = choice["message"]["content"] or ""
    name, arguments = _parsed(text)
    if name is None:
        return answer
    call = {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": {"name": name, "arguments": arguments}}
    reason = "length" if choice["finish_reason"] == "length" else "tool_calls"
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {**answer, "choices": [{**choice, "message": message, "finish_reason": reason}]}


def _parsed(text: str) -> Tuple[Any, str]:
    try:
        call = json.loads(text)
        return call["name"], json.dumps(call["arguments"], ensure_ascii=False)
    except (ValueError, KeyError, TypeError):
        begun = _BEGUN.match(text)
        return (json.loads(begun[1]), begun[2]) if begun else (None, "")
