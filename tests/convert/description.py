"""What a GGUF file holds, short enough to keep: used by make_reference.py and by the tests that compare with it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf


def described(path: Path) -> dict[str, Any]:
    """Every key with its type and value, every tensor with its type, shape and data; long ones by their SHA-256."""
    reader = gguf.GGUFReader(str(path))
    keys = {}
    for name, field in reader.fields.items():
        if not name.startswith("GGUF."):
            value = field.contents()
            text = json.dumps(value)
            keys[name] = ["/".join(t.name for t in field.types), value if len(text) < 100 else _digest(text.encode())]
    tensors = {t.name: [t.tensor_type.name, t.shape.tolist(), _digest(t.data.tobytes())] for t in reader.tensors}
    return {"keys": keys, "tensors": tensors}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:20]
