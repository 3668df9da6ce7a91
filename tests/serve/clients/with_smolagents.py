"""smolagents: its model class and its agent that calls tools."""

from __future__ import annotations

import smolagents
from asked import N_TOKENS, QUESTION, Trip, say, server
from smolagents.models import ChatMessage, MessageRole

CITY = {"city": {"type": "string", "description": "Which one.", "enum": ["Oslo", "Rome"]}}
GOOD = {"answer": {"type": "boolean", "description": "Whether it was good."}}


def tool(tool_name, inputs, output, act):
    class Made(smolagents.Tool):
        name, description, output_type = tool_name, f"Does {tool_name}.", output
        skip_forward_signature_validation = True

        def forward(self, **given):
            return act(**given)

    Made.inputs = inputs
    return Made()


def loop(model, stream: bool) -> None:
    trip = Trip()

    def go(which):
        def act(city):
            said = trip.call(which, city)
            if trip.is_over:  # the last turn has to end it
                for old in ("look_up", "weather"):
                    agent.tools.pop(old)
                agent.tools["final_answer"] = tool("final_answer", GOOD, "boolean", lambda answer: answer)
            return said

        return act

    tools = [tool("look_up", CITY, "string", go("look_up")), tool("weather", CITY, "string", go("weather"))]
    prompts = {**smolagents.EMPTY_PROMPT_TEMPLATES, "system_prompt": "Travel."}
    agent = smolagents.ToolCallingAgent(tools, model, max_steps=3, verbosity_level=0, prompt_templates=prompts, stream_outputs=stream)
    agent.tools.pop("final_answer")
    answer = agent.run(QUESTION)
    trip.check()
    assert isinstance(answer, bool), answer


def main() -> None:
    at = server()
    asked = dict(model_id="any", api_base=f"{at.url}/v1", api_key=at.key, temperature=0)
    model = smolagents.OpenAIServerModel(**asked, max_tokens=N_TOKENS)
    messages = [ChatMessage(role=MessageRole.USER, content=QUESTION)]
    whole = model.generate(messages).content
    text = "".join(delta.content or "" for delta in model.generate_stream(messages))
    assert whole and text == whole, (text, whole)
    for stream in (False, True):
        loop(smolagents.OpenAIServerModel(**asked, max_tokens=200), stream)
    say("smolagents", "generate", "stream", "tools", "tools stream")


main()
