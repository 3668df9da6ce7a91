"""Runs functions of llama_cpp.server with some of its names meaning ours."""

from __future__ import annotations

import contextlib
from types import ModuleType
from typing import Any, Iterator


@contextlib.contextmanager
def names_in(module: ModuleType, **names: Any) -> Iterator[None]:
    """Gives globals of `module` other values for the time of a `with` block."""
    before = {name: getattr(module, name) for name in names}
    vars(module).update(names)
    try:
        yield
    finally:
        vars(module).update(before)
