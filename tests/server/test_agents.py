"""The tool loops of agent libraries, as they come, against the server: three turns each.

A model of random weights can't choose tools with sense, so every turn wants a call ("required") of one of the tools that it
offers. The last turn offers others than the first two.
"""

import asyncio
from typing import Literal

import pytest
from asking import EXACT
from servers import KEY, OPTIONS, Pair, arguments

City = Literal["Oslo", "Rome"]

TEMPLATE = """{%- if messages[0].role == "tool" %}{{ raise_exception("a tool may not begin") }}{% endif %}{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content | trim }}{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture(scope="module")
def server(start, folder):
    """With a chat template that knows tools, as models that agents use have one."""
    pair = Pair(folder, seed=11, chat_template=TEMPLATE)
    options = dict(n_ctx=20000, model_alias="agent", api_key=KEY, accept_any_model=False, verbose=False)
    options = {**OPTIONS, "model": pair.target, "draft_model": pair.drafter, "draft_model_budget": 8, **options}
    del options["chat_format"]
    return start(*arguments(**options))


class Trip:
    """What the tools of a loop did: two calls of look_up or weather, then finish."""

    def __init__(self):
        self.calls = []

    @property
    def is_over(self) -> bool:
        return len(self.calls) >= 2

    def call(self, tool: str, city: str) -> str:
        assert city in ("Oslo", "Rome")
        self.calls.append(tool)
        return f"{city}: {len(self.calls)}"

    def check(self) -> None:
        assert len(self.calls) == 2 and set(self.calls) <= {"look_up", "weather"}


@pytest.fixture
def trip():
    return Trip()


def test_the_loop_of_openai_agents(server, trip):
    agents = pytest.importorskip("agents", reason="needs the test extra")
    openai = pytest.importorskip("openai")
    agents.set_tracing_disabled(True)

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

    @agents.function_tool(is_enabled=lambda context, agent: trip.is_over)
    def give_up() -> str:
        """Ends it, too."""
        return "finished: gave up"

    client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    agent = agents.Agent(
        name="traveller",
        instructions="Travel.",
        model=agents.OpenAIChatCompletionsModel("agent", client),
        model_settings=agents.ModelSettings(tool_choice="required", temperature=0, max_tokens=200, extra_body=EXACT),
        tools=[look_up, weather, finish, give_up],
        tool_use_behavior=agents.StopAtTools(stop_at_tool_names=["finish", "give_up"]),
        reset_tool_choice=False,
    )
    result = agents.Runner.run_sync(agent, "Where to?", max_turns=3)
    trip.check()
    assert len(result.raw_responses) == 3 and result.final_output.startswith("finished")


@pytest.mark.parametrize("streaming", [False, True])
def test_the_loop_of_langchain(server, trip, streaming):
    langchain_openai = pytest.importorskip("langchain_openai", reason="needs the test extra")
    agents = pytest.importorskip("langchain.agents", reason="needs the test extra")
    from langchain.agents.middleware import wrap_model_call
    from langchain_core.tools import tool

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

    model = langchain_openai.ChatOpenAI(
        model="agent", base_url=f"{server.url}/v1", api_key=KEY, temperature=0, max_tokens=60, max_retries=0, streaming=streaming
    )
    agent = agents.create_agent(model, tools=[look_up, weather], system_prompt="Travel.", middleware=[want_calls])
    messages = agent.invoke({"messages": [("user", "Where to?")]})["messages"]
    trip.check()
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai", "tool", "ai"]
    assert messages[-1].content and not messages[-1].tool_calls


def test_the_loop_of_smolagents(server, trip):
    smolagents = pytest.importorskip("smolagents", reason="needs the test extra")

    def tool(tool_name, inputs, output, act):
        class Made(smolagents.Tool):
            name, description, output_type = tool_name, f"Does {tool_name}.", output
            skip_forward_signature_validation = True

            def forward(self, **given):
                return act(**given)

        Made.inputs = inputs
        return Made()

    city = {"city": {"type": "string", "description": "Which one.", "enum": ["Oslo", "Rome"]}}
    good = {"answer": {"type": "boolean", "description": "Whether it was good."}}

    def go(which):
        def act(city):
            said = trip.call(which, city)
            if trip.is_over:
                for old in ("look_up", "weather"):
                    agent.tools.pop(old)
                agent.tools["final_answer"] = tool("final_answer", good, "boolean", lambda answer: answer)
                agent.tools["note"] = tool("note", good, "boolean", lambda answer: answer)
            return said

        return act

    model = smolagents.OpenAIServerModel(
        "agent", api_base=f"{server.url}/v1", api_key=KEY, temperature=0, max_tokens=200, extra_body=EXACT
    )
    tools = [tool("look_up", city, "string", go("look_up")), tool("weather", city, "string", go("weather"))]
    prompts = {**smolagents.EMPTY_PROMPT_TEMPLATES, "system_prompt": "Travel."}
    agent = smolagents.ToolCallingAgent(tools, model, max_steps=3, verbosity_level=0, prompt_templates=prompts)
    agent.tools.pop("final_answer")
    result = agent.run("Where to?", return_full_result=True)
    trip.check()
    called = [call.get("function", call)["name"] for step in result.steps for call in step.get("tool_calls") or ()]
    assert called[:2] == trip.calls and len(called) == 3 and called[2] in ("final_answer", "note")


@pytest.mark.parametrize("streaming", [False, True])
def test_the_loop_of_pydantic_ai(server, trip, streaming):
    pydantic_ai = pytest.importorskip("pydantic_ai", reason="needs the test extra")
    from pydantic import BaseModel
    from pydantic_ai.capabilities import PrepareOutputTools, PrepareTools
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    class Verdict(BaseModel):
        good: bool

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

    agent = pydantic_ai.Agent(
        OpenAIChatModel("agent", provider=OpenAIProvider(base_url=f"{server.url}/v1", api_key=KEY)),
        output_type=[Verdict, pydantic_ai.ToolOutput(bool, name="short_verdict")],
        instructions="Travel.",
        tools=[look_up, weather],
        capabilities=[PrepareTools(until_over), PrepareOutputTools(once_over)],
        model_settings={"temperature": 0, "max_tokens": 200, "extra_body": EXACT},
    )

    async def run():
        if not streaming:
            return (await agent.run("Where to?")).output
        async with agent.run_stream("Where to?") as stream:
            return await stream.get_output()

    output = asyncio.run(run())
    trip.check()
    assert isinstance(output, (Verdict, bool))


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_chat_template_does_not_take_is_the_clients_error(server, stream):
    openai = pytest.importorskip("openai")
    messages = [{"role": "tool", "tool_call_id": "1", "content": "4"}]
    with pytest.raises(openai.APIError, match="a tool may not begin") as error:
        list(server.client(KEY).chat.completions.create(model="agent", messages=messages, max_tokens=3, stream=stream))
    assert error.value.type == "invalid_request_error"
    assert stream or isinstance(error.value, openai.BadRequestError)
