"""llama-index: OpenAILike, and its function-calling workflow."""

import asyncio
from typing import Any

from asked import N_TOKENS, QUESTION, City, Trip, say, server
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike


def made(at: Any, n_tokens: int, **more: Any) -> OpenAILike:
    settings = dict(is_chat_model=True, is_function_calling_model=True, context_window=8192, temperature=0, max_retries=0)
    return OpenAILike(model="any", api_base=f"{at.url}/v1", api_key=at.key, max_tokens=n_tokens, **settings, **more)


def tools_of(trip: Trip, ends: bool = False) -> list:
    def look_up(city: City) -> str:
        """Says what there is in a city."""
        return trip.call("look_up", city)

    def weather(city: City) -> str:
        """Says how the weather is."""
        return trip.call("weather", city)

    return [FunctionTool.from_defaults(fn=tool, return_direct=ends) for tool in (look_up, weather)]


def loop(llm: OpenAILike) -> None:
    """The steps of an agent, one by one, as the library has them."""
    trip = Trip()
    tools = tools_of(trip)
    by_name = {tool.metadata.name: tool for tool in tools}
    messages = [ChatMessage(role="user", content=QUESTION)]
    while not trip.is_over:
        answer = llm.chat_with_tools(tools, chat_history=messages, tool_required=True)
        calls = llm.get_tool_calls_from_response(answer)
        assert len(calls) == 1, answer
        output = by_name[calls[0].tool_name].call(**calls[0].tool_kwargs)
        messages += [answer.message, ChatMessage(role="tool", content=output.content, additional_kwargs={"tool_call_id": calls[0].tool_id})]
    assert llm.chat(messages, max_tokens=N_TOKENS).message.content
    trip.check()


async def agent(llm: OpenAILike) -> None:
    """The library's own agent can only require the first call: here that ends it."""
    trip = Trip()
    runner = FunctionAgent(tools=tools_of(trip, ends=True), llm=llm, system_prompt="Travel.", initial_tool_choice="required", streaming=True)
    answer = await runner.run(QUESTION)
    assert len(trip.calls) == 1 and str(answer), (trip.calls, answer)


def main() -> None:
    at = server()
    llm = made(at, N_TOKENS)
    messages = [ChatMessage(role="user", content=QUESTION)]
    whole = llm.chat(messages).message.content
    text = "".join(part.delta or "" for part in llm.stream_chat(messages))
    assert whole and text == whole, (text, whole)
    loop(made(at, 200))
    asyncio.run(agent(made(at, 200)))
    say("llama-index-llms-openai-like", "chat", "stream", "tools", "agent stream")


main()
