"""pydantic-ai, over chat completions and over responses."""

from __future__ import annotations

import asyncio

import pydantic_ai
from asked import N_TOKENS, QUESTION, City, Trip, say, server
from pydantic import BaseModel
from pydantic_ai.capabilities import PrepareOutputTools, PrepareTools
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class Verdict(BaseModel):
    good: bool


def agent_of(trip: Trip, model) -> pydantic_ai.Agent:
    async def until_over(context, tools):
        return [] if trip.is_over else tools

    async def once_over(context, tools):
        return tools if trip.is_over else []

    def look_up(city: City) -> str:
        """Says what there is in a city."""
        return trip.call("look_up", city)

    def weather(city: City) -> str:
        """Says how the weather is."""
        return trip.call("weather", city)

    return pydantic_ai.Agent(
        model,
        output_type=[Verdict, pydantic_ai.ToolOutput(bool, name="short_verdict")],
        instructions="Travel.",
        tools=[look_up, weather],
        capabilities=[PrepareTools(until_over), PrepareOutputTools(once_over)],
        model_settings={"temperature": 0, "max_tokens": 200},
    )


async def use(model) -> None:
    talker = pydantic_ai.Agent(model, model_settings={"temperature": 0, "max_tokens": N_TOKENS})
    whole = (await talker.run(QUESTION)).output
    async with talker.run_stream(QUESTION) as stream:
        parts = [part async for part in stream.stream_text(delta=True)]
    assert whole and "".join(parts) == whole, (parts, whole)

    trip = Trip()
    output = (await agent_of(trip, model).run(QUESTION)).output
    trip.check()
    assert isinstance(output, (Verdict, bool))

    trip = Trip()
    async with agent_of(trip, model).run_stream(QUESTION) as stream:
        output = await stream.get_output()
    trip.check()
    assert isinstance(output, (Verdict, bool))


def main() -> None:
    at = server()
    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        provider = OpenAIProvider(base_url=f"{at.url}/v1", api_key=at.key)
        asyncio.run(use(kind("any", provider=provider)))
    say("pydantic-ai-slim", "run", "stream", "tools", "tools stream", "the same over responses")


main()
