"""Temperature, top_k, penalties and a logits processor: speculation changes no distribution.

    python examples/own_sampler_settings.py
"""

import numpy as np

from llama_dflash import Llama  # before llama_cpp
from llama_cpp import LogitsProcessorList
from pair import DRAFTER, TARGET

llm = Llama(TARGET, draft_model=DRAFTER, n_ctx=1024, verbose=False)

# The id of every token with a digit in it. A processor that depends on the text gets the true prefix: input_ids.
digits = [i for i in range(llm.n_vocab()) if any(c in b"0123456789" for c in llm.detokenize([i], prev_tokens=[i]))]


def no_digits(input_ids, scores):
    scores[digits] = -np.inf
    return scores


settings = {
    "as it is": {},
    "warm": dict(temperature=0.9, top_k=50, top_p=0.95, min_p=0.0),
    "with penalties": dict(temperature=0.7, repeat_penalty=1.1, frequency_penalty=0.3, presence_penalty=0.3),
    "without digits": dict(temperature=0.7, logits_processor=LogitsProcessorList([no_digits])),
}
for name, kwargs in settings.items():
    answer = llm.create_completion("Three things to know about the Moon:\n1.", max_tokens=48, seed=7, **kwargs)
    print(f"--- {name} ({llm.speculative_stats.acceptance_length:.2f} tokens per forward)")
    print(answer["choices"][0]["text"].strip())
