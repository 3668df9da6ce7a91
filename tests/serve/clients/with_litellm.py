"""litellm, as a client of an OpenAI-compatible server."""

from __future__ import annotations

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network when it is imported

import litellm  # noqa: E402
from asked import N_TOKENS, QUESTION, SCHEMA, TOOLS, Trip, say, server  # noqa: E402

GIVEN = [{"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": SCHEMA}} for name in TOOLS]


def main() -> None:
    at = server()
    asked = dict(model="openai/any", api_base=f"{at.url}/v1", api_key=at.key, temperature=0, max_tokens=N_TOKENS, num_retries=0)
    messages = [{"role": "user", "content": QUESTION}]
    whole = litellm.completion(messages=messages, **asked).choices[0].message.content
    assert whole
    chunks = litellm.completion(messages=messages, stream=True, **asked)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole, (text, whole)

    trip = Trip()
    while not trip.is_over:
        answer = litellm.completion(messages=messages, tools=GIVEN, tool_choice="required", **{**asked, "max_tokens": 200})
        message = answer.choices[0].message
        assert len(message.tool_calls) == 1, message
        call = message.tool_calls[0]
        messages += [message, {"role": "tool", "tool_call_id": call.id, "content": trip.call_json(call.function.name, call.function.arguments)}]
    assert litellm.completion(messages=messages, tools=GIVEN, tool_choice="none", **asked).choices[0].message.content
    trip.check()
    say("litellm", "completion", "stream", "tools")


main()
