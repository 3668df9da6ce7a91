"""llama-cpp-python's bundled server, an OpenAI-compatible one, over `llama_dflash.Llama`.

    python -m llama_dflash.server --model target.gguf --draft_model drafter.gguf

The routes are llama_cpp.server's own, and so is what their answers say. Ours is what a request passes on its way there, in
this order: `keys` (the API key), `metrics`, `bodies` (size, JSON, and with `requests` OpenAI's newer words), `queue` (turns),
`client` (is it still there?), `streaming` or a whole answer, `served` (a Llama that times its answers; `choices`, several
texts for one request; `tools`, calls that have to be made). Beside that `settings`, `model` (loading), `media` (images),
`errors`, `app`, which puts it together, `stopping` and `__main__`, the command.
"""

import importlib.util

_NEEDED = ("fastapi", "pydantic_settings", "sse_starlette", "starlette_context", "uvicorn")  # and what these bring


def check_installed() -> None:
    """Raises ImportError that says what to install if the packages of the `server` extra are not there."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'the server needs {", ".join(missing)}: pip install "llama-dflash[server]"')
