"""llama-cpp-python's bundled server, an OpenAI-compatible one, over `llama_dflash.Llama`.

    python -m llama_dflash.server --model target.gguf --draft_model drafter.gguf

Everything that is not about drafters is llama_cpp.server's own code. Here: `settings` (options), `model` (loading),
`served` (a Llama that times its answers), `requests` (what may be asked), `choices` (several texts for one request),
`streaming`, `client` (is it still there?), `errors`, `app`, and `__main__`, the command.
"""

import importlib.util

_NEEDED = ("fastapi", "pydantic_settings", "sse_starlette", "starlette_context", "uvicorn")  # and what these bring


def check_installed() -> None:
    """Raises ImportError that says what to install if the packages of the `server` extra are not there."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'the server needs {", ".join(missing)}: pip install "llama-dflash[server]"')
