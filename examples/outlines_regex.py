"""Outlines keeps an answer to a form with a logits processor, which sees accepted tokens only.

    pip install outlines llguidance
    python examples/outlines_regex.py
"""

import outlines
from outlines.types import Regex

from llama_dflash import Llama
from pair import DRAFTER, TARGET

FORM = Regex(r"name: [A-Z][a-z]{2,12}\ntyping: (static|dynamic)\nyear: (19|20)[0-9]{2}")

llm = Llama(TARGET, draft_model=DRAFTER, n_ctx=1024, verbose=False)
model = outlines.from_llamacpp(llm)

request = dict(backend="llguidance", temperature=0.0, max_tokens=64)  # the default backend needs numba
print(model("Describe the programming language Python.", FORM, **request))
print("".join(model.stream("And Haskell?", FORM, **request)))
print(llm.speculative_stats)
