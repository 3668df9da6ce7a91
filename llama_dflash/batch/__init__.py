"""Many requests at once over one model, joined into one forward: `LlamaBatch`.

In the order in which a request passes: `llama_batch` (what is public), `front` (a Llama of one request: stock's text handling),
`request` (a prompt and what is written after it), `scheduler` (the thread that owns the context: who joins the next forward),
`places` (which lane a request gets, and what it finds in memory there), `lane` (one sequence), `batches` (tokens of several lanes
decoded at once). Beside that `workers` (threads for lists and asyncio). docs/architecture.md has the whole.
"""

from .llama_batch import LlamaBatch
from .request import Cancelled

__all__ = ["Cancelled", "LlamaBatch"]
