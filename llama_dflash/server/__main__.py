"""python -m llama_dflash.server: the options are those of `python -m llama_cpp.server` and of drafters."""

from __future__ import annotations

import sys
from typing import Any

from . import check_installed


def main() -> None:
    """Serves until it is stopped. Exits with a sentence if a package, a model or a drafter is not as it should be."""
    try:
        check_installed()
    except ImportError as error:
        sys.exit(f"llama_dflash.server: {error}")

    from types import SimpleNamespace

    from . import app as our_app  # before upstream's, see there
    from . import stopping
    from ._names import names_in

    import llama_cpp.server.__main__ as upstream

    def create_app(**settings: Any) -> Any:
        try:
            return our_app.create_app(**settings)
        except ValueError as error:
            sys.exit(f"llama_dflash.server: {error}")

    uvicorn = SimpleNamespace(run=stopping.run)
    with names_in(upstream, create_app=create_app, uvicorn=uvicorn, **our_app.SETTINGS):
        upstream.main()


if __name__ == "__main__":
    main()
