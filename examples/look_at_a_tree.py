"""The draft tree of one round: what the drafter proposed, how probable it found it, what the target accepted.

    python examples/look_at_a_tree.py
"""

import itertools
import math

from llama_dflash import DFlashDraft, Llama
from pair import DRAFTER, TARGET

draft = DFlashDraft(DRAFTER, budget=12)  # always 12 nodes; the default, "auto", weighs their cost in every round
llm = Llama(TARGET, draft_model=draft, n_ctx=1024, verbose=False)


def text(token: int) -> str:
    return repr(llm.detokenize([token], prev_tokens=[token]).decode(errors="replace"))


prompt = llm.tokenize(b"def add(a, b):\n    return", add_bos=False)
tokens = list(itertools.islice(llm.generate(prompt, temp=0.0), 8))
print("written:", repr(llm.detokenize(tokens).decode(errors="replace")))

tree = llm.last_tree
depth = [0] * len(tree.tokens)
print("\nnode  parent  probability  accepted  token")
for node, (token, parent, logprob) in enumerate(zip(tree.tokens, tree.parents, tree.logprobs)):
    depth[node] = 0 if parent < 0 else depth[parent] + 1
    accepted = "yes" if node in tree.path else ""
    print(f"{node:4}  {parent:6}  {math.exp(logprob):11.2f}  {accepted:8}  {'  ' * depth[node]}{text(token)}")
print(f"\nbonus token: {text(tree.sampled[-1])}, sampled by the target where the accepted path ends")
