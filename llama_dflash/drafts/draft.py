"""`Draft`: what the settings of every kind of drafter have in common."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Callable, ClassVar, Dict, List, Optional, Sequence, Union


class Draft:
    """A drafter and how to draft with it, for `Llama(draft_model=...)`. A kind is a subclass: a frozen dataclass whose fields
    are its settings, listed in `KINDS` (llama_dflash/drafts/__init__.py).

    Attributes:
        kind: What the engine calls it (`make_drafter` in native/engine/make-drafter.cpp).
        article: Of the class's name in a sentence: "a" or "an".
        word: What may be written in place of an object with the default settings; None where a file is needed.
        budget: Nodes of the draft tree beside its root in every round, or "auto". A field of every kind.
        mode: "tree" or "chain". A field of every kind.
        calibrated: Whether nodes count as probable as what was accepted so far says; else as their drafter says. A field of
            every kind.
        tuned: A file that `Llama.save_tuned` wrote: what was learned then is where learning goes on. A field of every kind.
        device_outputs: Whether tokens are chosen where logits are computed. None: on a GPU.

    Raises:
        ValueError: If a setting has a wrong type or value.
    """

    kind: ClassVar[str]
    article: ClassVar[str] = "a"
    word: ClassVar[Optional[str]] = None

    budget: Union[str, int]
    mode: str
    calibrated: bool = True
    tuned: Optional[str] = None
    device_outputs: Optional[bool] = None

    @property
    def file(self) -> Optional[str]:
        """The path of its file; None for a drafter that has none."""
        return None

    def __post_init__(self) -> None:
        """Checks what is common. A kind checks its own settings, too."""
        if self.budget != "auto":
            self._check_int("budget", 1, '"auto" or a number of nodes, at least 1')
        self._check_choice("mode", ("tree", "chain"))
        self._check_flag("calibrated")
        if self.device_outputs is not None and not isinstance(self.device_outputs, bool):
            self._refuse("device_outputs", "True, False or None")
        if self.tuned is not None:
            if not isinstance(self.tuned, (str, os.PathLike)):
                self._refuse("tuned", "the path of a file that save_tuned() wrote, or None")
            object.__setattr__(self, "tuned", os.fspath(self.tuned))

    def ready_for(self, target: str) -> Draft:
        """Itself, or the same with files that can be loaded. Called before the target is loaded.

        Args:
            target: The path of the target's GGUF file.

        Raises:
            ValueError: If a file is missing, or of no use with any target.
        """
        return self

    def all_ready_for(self, target: str) -> List[Draft]:
        """Itself, ready for a target. What names a drafter that is found out by the target gives that drafter, or several.

        Args:
            target: The path of the target's GGUF file.

        Raises:
            ValueError: If a file is missing, or of no use with any target.
        """
        return [self.ready_for(target)]

    def in_tokens(self, tokenize: Callable[[bytes], List[int]]) -> Draft:
        """Itself, or the same with tokens of the target in place of texts. Called once the target is loaded.

        Args:
            tokenize: Makes tokens of UTF-8 bytes; none is added, none of them is special.
        """
        return self

    def engine_params(self, n_gpu_layers: int) -> Dict[str, Any]:
        """Its settings as the engine takes them: fields of `llama_dflash_drafter_params` (native/engine/llama-dflash.h) that
        are not to have their defaults.

        Args:
            n_gpu_layers: Of the target.
        """
        return {}

    # ---------------------------------------------------------------- checks, for subclasses

    def _refuse(self, name: str, expected: str) -> None:
        raise ValueError(f"{type(self).__name__}: {name} is {getattr(self, name)!r}, expected {expected}")

    def _check_int(self, name: str, least: int, expected: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            self._refuse(name, expected)

    def _check_choice(self, name: str, choices: tuple) -> None:
        if getattr(self, name) not in choices:
            self._refuse(name, " or ".join(f'"{choice}"' for choice in choices))

    def _check_flag(self, name: str) -> None:
        if not isinstance(getattr(self, name), bool):
            self._refuse(name, "True or False")


@dataclass(frozen=True)
class CommonSettings:
    """What is one for all drafters of a list: their proposals become one tree (`Draft` has what the names mean)."""

    budget: Union[str, int] = "auto"
    mode: str = "tree"
    calibrated: bool = True
    tuned: Optional[str] = None
    device_outputs: Optional[bool] = None


def common_settings(drafts: Sequence[Draft]) -> CommonSettings:
    """What the drafters of a list say together: one that has a default says nothing.

    Raises:
        ValueError: If two say different things.
    """
    found: Dict[str, Any] = {}
    for name in ("budget", "mode", "calibrated", "tuned", "device_outputs"):
        default = getattr(CommonSettings, name)
        said = {getattr(draft, name) for draft in drafts} - {default}
        if len(said) > 1:
            values = " and ".join(sorted(repr(value) for value in said))
            raise ValueError(
                f"draft_model: the drafters of the list have {name} {values}, expected one for all, as their proposals make one tree:"
                " give it to one of them"
            )
        found.update({name: value for value in said})
    return CommonSettings(**found)
