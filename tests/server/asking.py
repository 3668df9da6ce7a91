"""What the tests ask, and what they look at in the answers. A request is a function of the client that makes it."""

PROMPT = "the digits: 0123"
MESSAGES = [{"role": "user", "content": "Count: 0123"}]
EXACT = {"repeat_penalty": 1.0}  # of the request's body: a penalty would make the drafter guess less

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "capital": {"type": "boolean"}},
    "required": ["city", "capital"],
}
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": CITY}}]
CHOICE = {"type": "function", "function": {"name": "look_up"}}


def complete(**request):
    request = {"model": "any", "prompt": PROMPT, "temperature": 0, "max_tokens": 40, "extra_body": EXACT, **request}
    return lambda client: client.completions.create(**request)


def chat(**request):
    request = {"model": "any", "messages": MESSAGES, "temperature": 0, "max_tokens": 40, "extra_body": EXACT, **request}
    return lambda client: client.chat.completions.create(**request)


def streamed(request):
    return lambda client: list(request(client))


def text_of(answer):
    """The text and why it ended."""
    choice = answer.choices[0]
    return (choice.text if hasattr(choice, "text") else choice.message.content), choice.finish_reason


def text_of_chunks(chunks):
    choices = [chunk.choices[0] for chunk in chunks]
    texts = [c.text if hasattr(c, "text") else c.delta.content for c in choices]
    return "".join(t or "" for t in texts), choices[-1].finish_reason
