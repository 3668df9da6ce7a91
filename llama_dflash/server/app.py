"""The FastAPI app: llama_cpp.server's, with our settings, models, requests and streams, and /health.

    uvicorn --factory llama_dflash.server.app:create_app    # settings from the environment: MODEL, DRAFT_MODEL, ...
"""

from __future__ import annotations

from typing import Dict, List, Optional

from . import check_installed

check_installed()

import json  # noqa: E402

import llama_cpp  # noqa: E402
from fastapi import FastAPI  # noqa: E402

from . import requests  # noqa: E402

# the routes are made when upstream is imported, and FastAPI leaves out of an answer what its type does not name
requests.teach_upstream()
for _answer in (llama_cpp.CreateCompletionResponse, llama_cpp.CreateChatCompletionResponse):
    _answer.__pydantic_config__ = {"extra": "allow"}  # timings

import llama_cpp.server.app as upstream  # noqa: E402

from . import errors  # noqa: E402
from . import settings as ours  # noqa: E402
from ._names import names_in  # noqa: E402
from .client import WatchClients  # noqa: E402
from .model import LlamaProxy  # noqa: E402
from .streaming import get_event_publisher  # noqa: E402

# what upstream's functions call a settings class; in its command too
SETTINGS = {
    "Settings": ours.Settings,
    "ModelSettings": ours.ModelSettings,
    "ConfigFileSettings": ours.ConfigFileSettings,
}


def create_app(
    settings: Optional[ours.Settings] = None,
    server_settings: Optional[ours.ServerSettings] = None,
    model_settings: Optional[List[ours.ModelSettings]] = None,
) -> FastAPI:
    """Loads the first model and makes the app; as upstream's function, one app per process.

    Args:
        settings: Of the server and its one model. Or server_settings and model_settings. Or none of them: they are
            then read from the file that CONFIG_FILE names, or from the environment.

    Raises:
        ValueError: If a model or a drafter does not load; a file or setting is wrong.
    """
    upstream.get_event_publisher = get_event_publisher  # looked up by every request
    upstream.RouteErrorHandler.error_message_wrapper = errors.error_message
    with names_in(upstream, LlamaProxy=LlamaProxy, **SETTINGS):
        app = upstream.create_app(settings, server_settings, model_settings)
    app.add_middleware(requests.NewerWords)
    app.add_middleware(WatchClients)
    app.add_exception_handler(json.JSONDecodeError, errors.no_json)

    @app.get("/health", summary="Health", tags=["Extras"])  # as llama.cpp's: needs no API key
    @app.get("/v1/health", include_in_schema=False)
    async def health() -> Dict[str, str]:
        return {"status": "ok"}

    return app
