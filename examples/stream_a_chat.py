"""A chat of two turns, printed while it is written. The second turn evaluates only what is new.

    python examples/stream_a_chat.py
"""

from llama_dflash import Llama
from pair import DRAFTER, TARGET

llm = Llama(TARGET, draft_model=DRAFTER, n_ctx=2048, verbose=False)

messages = []
for question in ("Name three planets of the solar system.", "Which of them is the largest?"):
    print(f"> {question}")
    messages.append({"role": "user", "content": question})
    text = ""
    for chunk in llm.create_chat_completion(messages=messages, stream=True, temperature=0.0, max_tokens=64):
        piece = chunk["choices"][0]["delta"].get("content") or ""
        print(piece, end="", flush=True)
        text += piece
    messages.append({"role": "assistant", "content": text})
    print(f"\n  ({llm.speculative_stats.acceptance_length:.2f} tokens per forward)\n")
