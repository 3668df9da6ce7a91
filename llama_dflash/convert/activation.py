"""The activation of a drafter's feed-forward layers, by its name in GGUF."""

from __future__ import annotations

from typing import Any, Dict, Optional

_ACTIVATIONS = {"silu": None, "swish": None, "gelu": "gelu", "relu": "relu"}
_ACTIVATIONS.update(dict.fromkeys(("gelu_pytorch_tanh", "gelu_new"), "gelu_pytorch_tanh"))


def activation(values: Dict[str, Any]) -> Optional[str]:
    """Of a config; None for silu, which is what a file means that says nothing.

    Raises:
        ValueError: If it is not known.
    """
    name = values.get("hidden_act", "silu")
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise ValueError(f"config.json has hidden_act = {name!r}, expected one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]
