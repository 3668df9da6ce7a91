"""Models and drafters from the Hugging Face Hub.

ids.py says what an id is ("org/name", "hf://org/name@revision/file.gguf", …), repository.py asks the Hub and downloads with
huggingface_hub, whose cache, tokens, offline mode and progress bars these are. choice.py picks the files of a model or a
drafter, outline.py fetches only what is needed to tell whether the two fit, and drafter.py and target.py put it together.
huggingface_hub is imported when the Hub is asked, not before.
"""

from .ids import HubId, as_hub_id
from .repository import Access, HubError

__all__ = ["Access", "HubError", "HubId", "as_hub_id"]
