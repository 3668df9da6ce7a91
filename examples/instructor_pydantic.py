"""Instructor makes a Pydantic object of an answer. It calls the Llama as it would call llama_cpp's.

    pip install instructor
    python examples/instructor_pydantic.py
"""

import instructor
from pydantic import BaseModel, Field

from llama_dflash import Llama
from pair import DRAFTER, TARGET


class Sum(BaseModel):
    """Adds two numbers."""

    a: int = Field(ge=0, le=100)
    b: int = Field(ge=0, le=100)


llm = Llama(TARGET, draft_model=DRAFTER, n_ctx=1024, verbose=False)
create = instructor.patch(create=llm.create_chat_completion_openai_v1, mode=instructor.Mode.TOOLS)

request = dict(messages=[{"role": "user", "content": "Add 13 and 24."}], temperature=0.0, max_tokens=64)
print(repr(create(response_model=Sum, **request)))
for part in create(response_model=instructor.Partial[Sum], stream=True, **request):
    print("so far:", repr(part))
print(llm.speculative_stats)
