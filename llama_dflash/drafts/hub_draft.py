"""`HubDraft`: a drafter on the Hub, whose kind is not known before its files are here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Callable, List, Optional, Union

from ..hub import as_hub_id
from .draft import Draft


@dataclass(frozen=True)
class HubDraft(Draft):
    """What `draft_model="org/name"` stands for: the drafter in that repository of the Hub, with the default settings of its kind.

    Attributes:
        id: As llama_dflash.hub.as_hub_id takes it.
        of_path: Makes the draft of a file or checkpoint.
        context, n_gpu_layers, type_k, type_v, block: As of the kind that it turns out to be, where that has them; None: as that
            has them by default.
    """

    kind = "hub"

    id: str
    of_path: Callable[[str], Draft]
    budget: Union[str, int] = "auto"
    mode: str = "tree"
    calibrated: bool = True
    tuned: Optional[str] = None
    device_outputs: Optional[bool] = None
    context: Optional[int] = None
    n_gpu_layers: Optional[int] = None
    type_k: Optional[int] = None
    type_v: Optional[int] = None
    block: Optional[str] = None

    @property
    def file(self) -> Optional[str]:
        return self.id

    def all_ready_for(self, target: str) -> List[Draft]:
        from ..hub.drafter import fetch_drafter

        id = as_hub_id(self.id)
        path = self.id if id is None else str(fetch_drafter(id, target))  # a folder of this name has appeared since
        draft = self.of_path(path)
        of_its_kind = {field.name for field in dataclasses.fields(draft)}  # type: ignore[arg-type]
        names = {field.name for field in dataclasses.fields(self)} & of_its_kind
        settings = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return dataclasses.replace(draft, **settings).all_ready_for(target)  # type: ignore[type-var]

    def ready_for(self, target: str) -> Draft:
        (draft,) = self.all_ready_for(target)
        return draft
