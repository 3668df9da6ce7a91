"""Chunks of streamed answers, where OpenAI's form is another than llama-cpp-python's."""

from __future__ import annotations

from typing import Any, Dict, Iterable, Iterator, Set

Chunk = Dict[str, Any]
Function = Dict[str, Any]  # what is to be called: name and arguments


def with_openais_tool_calls(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """A tool call begins with a chunk of its id, type and name; only arguments follow. llama-cpp-python repeats everything
    in every chunk, and clients join what they get."""
    begun: Set[int] = set()
    for chunk in chunks:
        delta = chunk["choices"][0].get("delta") or {}
        calls = delta.get("tool_calls") or []
        if not calls:
            yield chunk
            continue
        older = {"function_call": delta["function_call"]} if delta.get("function_call") else {}  # says the same
        new = [call for call in calls if call["index"] not in begun]
        if new:
            begun.update(call["index"] for call in new)
            names = [{**call, "function": _name(call["function"])} for call in new]
            yield _with_delta(chunk, {"tool_calls": names, **{key: _name(call) for key, call in older.items()}})
        rest = [{"index": call["index"], "function": _arguments(call["function"])} for call in calls]
        yield _with_delta(chunk, {"tool_calls": rest, **{key: _arguments(call) for key, call in older.items()}})


def of_whole_answer(answer: Dict[str, Any]) -> Iterator[Chunk]:
    """The chunks of a chat's answer that was not streamed; the last has its usage."""
    choice = answer["choices"][0]
    message = {name: value for name, value in choice["message"].items() if value is not None}
    if "tool_calls" in message:
        message["tool_calls"] = [{"index": i, **call} for i, call in enumerate(message["tool_calls"])]
    chunk = {**answer, "object": "chat.completion.chunk"}
    usage = chunk.pop("usage")
    common = {"index": choice["index"], "logprobs": choice.get("logprobs")}
    yield {**chunk, "choices": [{**common, "delta": message, "finish_reason": None}]}
    yield {**chunk, "choices": [{**common, "delta": {}, "finish_reason": choice["finish_reason"]}], "usage": usage}


def _name(function: Function) -> Function:
    return {**function, "arguments": ""}


def _arguments(function: Function) -> Function:
    return {"arguments": function["arguments"]}


def _with_delta(chunk: Chunk, delta: Dict[str, Any]) -> Chunk:
    return {**chunk, "choices": [{**chunk["choices"][0], "delta": delta}]}
