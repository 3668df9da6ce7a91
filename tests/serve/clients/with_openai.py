"""openai: chat completions and responses."""

from __future__ import annotations

import openai
from asked import N_TOKENS, QUESTION, SCHEMA, TOOLS, Trip, say, server

MESSAGES = [{"role": "user", "content": QUESTION}]
CHAT_TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in TOOLS]
RESPONSE_TOOLS = [{"type": "function", "name": name, "parameters": SCHEMA, "strict": True} for name in TOOLS]


def chat(client: openai.OpenAI, model: str) -> None:
    asked = dict(model=model, messages=MESSAGES, temperature=0, max_tokens=N_TOKENS)
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content and whole.usage.completion_tokens <= N_TOKENS
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content, (text, whole.choices[0].message.content)
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def chat_with_tools(client: openai.OpenAI, model: str, stream: bool) -> None:
    trip, messages = Trip(), list(MESSAGES)
    while not trip.is_over:
        asked = dict(model=model, messages=messages, temperature=0, max_tokens=200, tools=CHAT_TOOLS, tool_choice="required")
        if stream:
            with client.chat.completions.stream(**asked) as events:
                for _ in events:
                    pass
                message = events.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.create(**asked).choices[0].message
        assert message.tool_calls and len(message.tool_calls) == 1, message
        call = message.tool_calls[0]
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": call.function.arguments}}
            ]},
            {"role": "tool", "tool_call_id": call.id, "content": trip.call_json(call.function.name, call.function.arguments)},
        ]  # fmt: skip
    named = {"type": "function", "function": {"name": "weather"}}
    call = client.chat.completions.create(
        model=model, messages=MESSAGES, temperature=0, max_tokens=200, tools=CHAT_TOOLS, tool_choice=named
    ).choices[0].message.tool_calls[0]
    assert call.function.name == "weather"
    last = client.chat.completions.create(
        model=model, messages=messages, temperature=0, max_tokens=N_TOKENS, tools=CHAT_TOOLS, tool_choice="none"
    )
    assert last.choices[0].message.content and not last.choices[0].message.tool_calls
    trip.check()


def responses(client: openai.OpenAI, model: str) -> None:
    asked = dict(model=model, input=QUESTION, temperature=0, max_output_tokens=N_TOKENS)
    whole = client.responses.create(**asked)
    assert whole.output_text and whole.usage.output_tokens <= N_TOKENS
    events = list(client.responses.create(**asked, stream=True))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text, (text, whole.output_text)
    assert events[-1].type == "response.completed", events[-1]


def responses_with_tools(client: openai.OpenAI, model: str) -> None:
    trip, items = Trip(), [{"role": "user", "content": QUESTION}]
    while not trip.is_over:
        answer = client.responses.create(
            model=model, input=items, temperature=0, max_output_tokens=200, tools=RESPONSE_TOOLS, tool_choice="required"
        )
        calls = [item for item in answer.output if item.type == "function_call"]
        assert len(calls) == 1, answer.output
        items += [
            {"type": "function_call", "call_id": calls[0].call_id, "name": calls[0].name, "arguments": calls[0].arguments},
            {"type": "function_call_output", "call_id": calls[0].call_id, "output": trip.call_json(calls[0].name, calls[0].arguments)},
        ]
    named = {"type": "function", "name": "weather"}
    answer = client.responses.create(
        model=model, input=QUESTION, temperature=0, max_output_tokens=200, tools=RESPONSE_TOOLS, tool_choice=named
    )
    assert [item.name for item in answer.output if item.type == "function_call"] == ["weather"]
    assert client.responses.create(model=model, input=items, temperature=0, max_output_tokens=N_TOKENS).output_text
    trip.check()


def main() -> None:
    at = server()
    client = openai.OpenAI(base_url=f"{at.url}/v1", api_key=at.key, max_retries=0)
    model = client.models.list().data[0].id
    chat(client, model)
    chat_with_tools(client, model, stream=False)
    chat_with_tools(client, model, stream=True)
    responses(client, model)
    responses_with_tools(client, model)
    say("openai", "chat", "chat stream", "chat tools", "chat tools stream", "responses", "responses stream", "responses tools")


main()
