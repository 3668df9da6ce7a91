"""anthropic: the Messages API."""

from __future__ import annotations

import anthropic
from asked import N_TOKENS, QUESTION, SCHEMA, TOOLS, Trip, say, server

MESSAGES = [{"role": "user", "content": QUESTION}]
GIVEN = [{"name": name, "description": f"Does {name}.", "input_schema": SCHEMA} for name in TOOLS]


def messages(client: anthropic.Anthropic, model: str) -> None:
    asked = dict(model=model, messages=MESSAGES, max_tokens=N_TOKENS, extra_body={"temperature": 0})
    whole = client.messages.create(**asked)
    assert whole.content[0].text and whole.usage.output_tokens <= N_TOKENS and whole.stop_reason in ("max_tokens", "end_turn")
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        assert stream.get_final_message().usage.output_tokens == whole.usage.output_tokens
    assert text == whole.content[0].text, (text, whole.content[0].text)
    assert client.messages.count_tokens(model=model, messages=MESSAGES).input_tokens > 0


def tools(client: anthropic.Anthropic, model: str, stream: bool) -> None:
    trip, said = Trip(), list(MESSAGES)
    while not trip.is_over:
        asked = dict(model=model, messages=said, max_tokens=200, tools=GIVEN, tool_choice={"type": "any"}, extra_body={"temperature": 0})
        if stream:
            with client.messages.stream(**asked) as events:
                answer = events.get_final_message()
        else:
            answer = client.messages.create(**asked)
        calls = [block for block in answer.content if block.type == "tool_use"]
        assert len(calls) == 1 and answer.stop_reason == "tool_use", answer
        assert set(calls[0].input) == {"city"}
        result = trip.call(calls[0].name, calls[0].input["city"])
        said += [
            {"role": "assistant", "content": [block.model_dump(include={"type", "id", "name", "input", "text"}) for block in answer.content]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": calls[0].id, "content": result}]},
        ]
    named = {"type": "tool", "name": "weather"}
    answer = client.messages.create(
        model=model, messages=MESSAGES, max_tokens=200, tools=GIVEN, tool_choice=named, extra_body={"temperature": 0}
    )
    assert [block.name for block in answer.content if block.type == "tool_use"] == ["weather"]
    assert client.messages.create(model=model, messages=said, max_tokens=N_TOKENS, extra_body={"temperature": 0}).content[0].text
    trip.check()


def main() -> None:
    at = server()
    client = anthropic.Anthropic(base_url=at.url, api_key=at.key, max_retries=0)
    model = "any"
    messages(client, model)
    tools(client, model, stream=False)
    tools(client, model, stream=True)
    say("anthropic", "messages", "messages stream", "tools", "tools stream", "count tokens")


main()
