"""langchain-openai's ChatOpenAI, and langchain's agent over it."""

from __future__ import annotations

from asked import N_TOKENS, QUESTION, City, Trip, say, server
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


def loop(model: ChatOpenAI) -> None:
    trip = Trip()

    @tool
    def look_up(city: City) -> str:
        """Says what there is in a city."""
        return trip.call("look_up", city)

    @tool
    def weather(city: City) -> str:
        """Says how the weather is."""
        return trip.call("weather", city)

    @wrap_model_call
    def want_calls(request, handler):
        return handler(request.override(tool_choice="none" if trip.is_over else "required"))

    agent = create_agent(model, tools=[look_up, weather], system_prompt="Travel.", middleware=[want_calls])
    messages = agent.invoke({"messages": [("user", QUESTION)]})["messages"]
    trip.check()
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai", "tool", "ai"], messages
    assert messages[-1].content and not messages[-1].tool_calls


def main() -> None:
    at = server()
    asked = dict(model="any", base_url=f"{at.url}/v1", api_key=at.key, temperature=0, max_retries=0)
    model = ChatOpenAI(**asked, max_tokens=N_TOKENS)
    whole = model.invoke(QUESTION)
    assert whole.content and whole.usage_metadata["output_tokens"] <= N_TOKENS
    text = "".join(chunk.content for chunk in model.stream(QUESTION))
    assert text == whole.content, (text, whole.content)
    both = model.batch([QUESTION, "Count: 543"])
    assert both[0].content == whole.content and both[1].content
    loop(ChatOpenAI(**asked, max_tokens=200))
    loop(ChatOpenAI(**asked, max_tokens=200, streaming=True))
    say("langchain-openai", "invoke", "stream", "batch", "agent", "agent stream")


main()
