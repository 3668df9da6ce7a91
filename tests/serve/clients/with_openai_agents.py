"""openai-agents, over chat completions and over responses."""

from __future__ import annotations

import asyncio

import agents
import openai
from asked import N_TOKENS, QUESTION, City, Trip, say, server

agents.set_tracing_disabled(True)


def agent_of(trip: Trip, model: agents.Model) -> agents.Agent:
    """Every turn wants a call, the last one of another tool: models of random weights can't choose with sense."""

    def before(context, agent):
        return not trip.is_over

    @agents.function_tool(is_enabled=before)
    def look_up(city: City) -> str:
        """Says what there is in a city."""
        return trip.call("look_up", city)

    @agents.function_tool(is_enabled=before)
    def weather(city: City) -> str:
        """Says how the weather is."""
        return trip.call("weather", city)

    @agents.function_tool(is_enabled=lambda context, agent: trip.is_over)
    def finish(good: bool) -> str:
        """Ends the trip."""
        return f"finished: {good}"

    return agents.Agent(
        name="traveller",
        instructions="Travel.",
        model=model,
        model_settings=agents.ModelSettings(tool_choice="required", temperature=0, max_tokens=200),
        tools=[look_up, weather, finish],
        tool_use_behavior=agents.StopAtTools(stop_at_tool_names=["finish"]),
        reset_tool_choice=False,
    )


async def loop(model: agents.Model) -> None:
    trip = Trip()
    result = await agents.Runner.run(agent_of(trip, model), QUESTION, max_turns=3)
    trip.check()
    assert len(result.raw_responses) == 3 and result.final_output.startswith("finished"), result


async def streamed_loop(model: agents.Model) -> None:
    trip = Trip()
    result = agents.Runner.run_streamed(agent_of(trip, model), QUESTION, max_turns=3)
    async for _ in result.stream_events():
        pass
    trip.check()
    assert result.final_output.startswith("finished"), result


async def plain(model: agents.Model) -> None:
    settings = agents.ModelSettings(temperature=0, max_tokens=N_TOKENS)
    assert (await agents.Runner.run(agents.Agent(name="talker", model=model, model_settings=settings), QUESTION)).final_output


async def main() -> None:
    at = server()
    client = openai.AsyncOpenAI(base_url=f"{at.url}/v1", api_key=at.key, max_retries=0)
    for model in (agents.OpenAIChatCompletionsModel("any", client), agents.OpenAIResponsesModel("any", client)):
        await plain(model)
        await loop(model)
        await streamed_loop(model)
    say("openai-agents", "run", "tools", "tools stream", "the same over responses")


asyncio.run(main())
