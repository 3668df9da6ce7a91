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
        "year": {"type": "integer", "minimum": 1900, "maximum": 2030},
        "is_compiled": {"type": "boolean"},
    },
    "required": ["name", "year", "is_compiled"],
    "additionalProperties": False,
}

llm = Llama(TARGET, draft_model=DRAFTER, n_ctx=1024, verbose=False)
answer = llm.create_chat_completion(
    messages=[{"role": "user", "content": "Describe the programming language Python as JSON."}],
    response_format={"type": "json_object", "schema": SCHEMA},
    temperature=0.0,
    max_tokens=128,
)
value = json.loads(answer["choices"][0]["message"]["content"])
jsonschema.validate(value, SCHEMA)
print(json.dumps(value, indent=2))
print(llm.speculative_stats)
