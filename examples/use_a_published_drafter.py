"""A drafter as its authors publish it, a safetensors checkpoint: what memory it will need, and drafts with it.

python examples/use_a_published_drafter.py target.gguf Qwen3-8B-DFlash
"""

import sys

from llama_dflash import Llama
from llama_dflash.convert.cache import converted
from llama_dflash.info import Model, Settings, problems, size_text

if len(sys.argv) != 3:
    sys.exit("usage: use_a_published_drafter.py TARGET.gguf CHECKPOINT_DIR")
target, checkpoint = sys.argv[1:]

drafter = converted(checkpoint, target)  # as draft_model=checkpoint does; the second time it is found in the cache
print(f"converted to {drafter}")

models = [Model(target), Model(drafter)]
for problem in problems(*models):
    sys.exit(problem)
for model in models:
    for what, n_bytes in model.memory(Settings(n_ctx=2048)):
        print(f"{what:<24}{size_text(n_bytes):>12}")

llm = Llama(target, draft_model=checkpoint, n_ctx=2048, verbose=False)
print(llm.create_completion("def fibonacci(n):", max_tokens=64, temperature=0.0)["choices"][0]["text"])
print(llm.speculative_stats)
