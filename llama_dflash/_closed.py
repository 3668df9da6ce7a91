"""What is left of a model and a context that were freed: objects of the stock classes whose methods say so.

Tokenizers and other objects of llama_cpp hold on to them. Their C pointers are gone, and a call with one would end the
process.
"""

from __future__ import annotations

from typing import Any, Callable, Optional

from llama_cpp import _internals as internals


def _refusing(stock: type) -> type:
    """A subclass whose public methods raise RuntimeError."""

    def refusal(name: str) -> Callable[..., Any]:
        def method(*_: Any, **__: Any) -> Any:
            raise RuntimeError(f"{name}: the Llama that this belongs to was closed, and its memory is freed. Make a new Llama")

        return method

    names = [name for name, value in vars(stock).items() if callable(value) and not name.startswith("_") and name != "close"]
    return type(f"Closed{stock.__name__}", (stock,), {name: refusal(name) for name in names})


_ClosedModel = _refusing(internals.LlamaModel)
_ClosedContext = _refusing(internals.LlamaContext)


def close_for_good(model: Optional[internals.LlamaModel], ctx: Optional[internals.LlamaContext]) -> None:
    """For a model and a context that were closed: from now on they refuse every call."""
    if model is not None:
        model.__class__, model.vocab = _ClosedModel, None
    if ctx is not None:
        ctx.__class__, ctx.memory = _ClosedContext, None
