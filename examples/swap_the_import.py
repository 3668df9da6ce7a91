"""Code for llama-cpp-python with one import changed, and a drafter named.

    python examples/swap_the_import.py
"""

# before: from llama_cpp import Llama
from llama_dflash import Llama
from pair import DRAFTER, TARGET

llm = Llama(TARGET, draft_model=DRAFTER, n_ctx=1024, verbose=False)

answer = llm.create_completion("def fibonacci(n):\n", max_tokens=64, temperature=0.0, stop=["\n\n\n"])
print(answer["choices"][0]["text"])

stats = llm.speculative_stats
print(f"\n{stats.acceptance_length:.2f} tokens per forward of the target, {stats.tokens_per_second:.1f} tokens per second")
