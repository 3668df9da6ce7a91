"""An answer that follows a JSON schema. The grammar advances along accepted tokens only.

    pip install jsonschema
    python examples/json_schema.py
"""

import json

import jsonschema

from llama_dflash import Llama
from pair import DRAFTER, TARGET

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "typing": {"enum": ["static", "dynamic"]},
        "is_compiled": {"type": "boolean"},
    },
    "required": ["name", "typing", "is_compiled"],
    "additionalProperties": False,
}

llm = Llama(TARGET, draft_model=DRAFTER, n_ctx=1024, verbose=False)
answer = llm.create_chat_completion(
    messages=[{"role": "user", "content": "Describe the programming language Python as JSON."}],
    response_format={"type": "json_object", "schema": SCHEMA},
    temperature=0.0,
    max_tokens=128,
)
text = answer["choices"][0]["message"]["content"]
value = json.loads(text, strict=False)  # the grammar that llama-cpp-python makes of a schema allows line breaks in strings
jsonschema.validate(value, SCHEMA)
print(json.dumps(value, indent=2))
print(llm.speculative_stats)
