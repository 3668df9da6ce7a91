"""The FastAPI app: llama_cpp.server's, with our settings, models, requests, queue and streams, /health and /metrics.

    uvicorn --factory llama_dflash.server.app:create_app    # settings from the environment: MODEL, DRAFT_MODEL, ...
"""

from typing import Any, AsyncIterator, Dict, List, Optional

from . import check_installed

check_installed()

import anyio.to_thread  # noqa: E402
import llama_cpp  # noqa: E402
from fastapi import Depends, FastAPI, Response  # noqa: E402
from fastapi.middleware.cors import CORSMiddleware  # noqa: E402
from starlette.concurrency import run_in_threadpool  # noqa: E402

from . import requests  # noqa: E402

# the routes are made when upstream is imported, and FastAPI leaves out of an answer what its type does not name
requests.teach_upstream()
for _answer in (llama_cpp.CreateCompletionResponse, llama_cpp.CreateChatCompletionResponse):
    _answer.__pydantic_config__ = {"extra": "allow"}  # timings

import llama_cpp.server.app as upstream  # noqa: E402

from . import errors  # noqa: E402
from . import settings as ours  # noqa: E402
from ._names import names_in  # noqa: E402
from .bodies import Bodies  # noqa: E402
from .client import WatchClients, this_client  # noqa: E402
from .keys import ApiKey  # noqa: E402
from .media import MediaHosts  # noqa: E402
from .metrics import CONTENT_TYPE, METRICS, CountRequests  # noqa: E402
from .model import LlamaProxy, proxy_class  # noqa: E402
from .queue import Admission, Queue  # noqa: E402
from .streaming import EventStream, event_publisher  # noqa: E402

# what upstream's functions call a settings class; in its command too
SETTINGS = {
    "Settings": ours.Settings,
    "ServerSettings": ours.ServerSettings,
    "ModelSettings": ours.ModelSettings,
    "ConfigFileSettings": ours.ConfigFileSettings,
}

_authenticate, _get_llama_proxy = upstream.authenticate, upstream.get_llama_proxy  # that the routes depend on
_prepare = upstream.prepare_request_resources
# routes of upstream's that wait for the model, or have everybody wait for them
_OURS = ("/v1/models", "/extras/tokenize", "/extras/tokenize/count", "/extras/detokenize")


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
    media = MediaHosts()
    upstream.RouteErrorHandler.error_message_wrapper = errors.error_message
    upstream.router.routes[:] = [route for route in upstream.router.routes if getattr(route, "path", "") not in _OURS]
    with names_in(upstream, LlamaProxy=proxy_class(media), **SETTINGS):
        app = upstream.create_app(settings, server_settings, model_settings)
    found: ours.ServerSettings = next(upstream.get_server_settings())
    max_bytes = int(found.max_body_mb * (1 << 20))
    media.allow(found.allowed_media_hosts, max_bytes)

    proxy: LlamaProxy = upstream._llama_proxy
    queue = Queue(found.max_queue, proxy.n_parallel)
    app.router.route_class = upstream.RouteErrorHandler  # of the routes that follow
    _use(app, proxy, queue, found.interrupt_requests)
    _add_routes(app, proxy, queue)
    _add_token_routes(app)
    words = requests.Words(proxy.models, found.accept_any_model, media)
    routes = [getattr(route, "path", "") for route in (*upstream.router.routes, *app.routes)]
    # the last one added is the first one asked
    app.user_middleware = [one for one in app.user_middleware if one.cls is not CORSMiddleware]  # with credentials
    app.add_middleware(WatchClients)
    app.add_middleware(Admission, queue=queue, refuse=errors.refuse)
    app.add_middleware(Bodies, max_bytes=max_bytes, translate=words, refuse=errors.refuse)
    app.add_middleware(CountRequests, routes=routes)
    app.add_middleware(ApiKey, key=found.api_key, root_path=found.root_path)
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    return app


def _use(app: FastAPI, proxy: LlamaProxy, queue: Queue, interrupts: bool) -> None:
    """Has upstream's routes take turns in our queue, and stream our way. They look these names up with every request."""

    async def get_llama_proxy() -> AsyncIterator[LlamaProxy]:
        threads = anyio.to_thread.current_default_thread_limiter()
        threads.total_tokens = max(threads.total_tokens, 2 * queue.n_turns + 8)  # an answer that is written has one
        async with queue.turn():
            await run_in_threadpool(proxy, this_client().model)  # loads it, if need be, while others are heard
            yield proxy

    upstream.get_llama_proxy = get_llama_proxy
    upstream.prepare_request_resources = _prepare_request
    upstream.get_event_publisher = event_publisher(queue, interrupts)
    upstream.EventSourceResponse = EventStream
    app.dependency_overrides[_get_llama_proxy] = get_llama_proxy
    app.dependency_overrides[_authenticate] = lambda: True  # ApiKey did


def _prepare_request(body: Any, proxy: LlamaProxy, body_model: Optional[str], kwargs: Dict[str, Any]) -> llama_cpp.Llama:
    """Upstream's function, after a look at what only a model can tell to be wrong."""
    llama = proxy(body_model)
    if body.logit_bias is not None and body.logit_bias_type != "tokens":
        for token in body.logit_bias:
            if not token.isascii() or not token.isdigit() or int(token) >= llama.n_vocab():
                raise errors.WrongRequest(
                    f"logit_bias has the token {token[:30]!r}, expected the numbers of tokens, 0 to {llama.n_vocab() - 1}",
                    "logit_bias",
                )
    return _prepare(body, proxy, body_model, kwargs)


def _add_routes(app: FastAPI, proxy: LlamaProxy, queue: Queue) -> None:
    """Routes that never wait for the model."""

    @app.get("/health", summary="Health", tags=["Extras"])  # as llama.cpp's: needs no API key
    @app.get("/v1/health", include_in_schema=False)
    async def health() -> Dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", summary="Metrics", tags=["Extras"], response_class=Response)
    async def metrics() -> Response:
        return Response(METRICS.text(queue), media_type=CONTENT_TYPE)

    @app.get("/v1/models", summary="Models", tags=[upstream.openai_v1_tag])
    async def models() -> upstream.ModelList:
        data = [{"id": name, "object": "model", "owned_by": "me", "permissions": []} for name in proxy.models]
        return {"object": "list", "data": data}


def _add_token_routes(app: FastAPI) -> None:
    """Upstream's, but beside the event loop: a text of 30 MB is half a minute's work."""
    tags, the_model = [upstream.extras_tag], Depends(_get_llama_proxy)

    @app.post("/extras/tokenize", summary="Tokenize", tags=tags)
    def tokenize(body: upstream.TokenizeInputRequest, proxy: LlamaProxy = the_model) -> upstream.TokenizeInputResponse:
        tokens = proxy(body.model).tokenize(body.input.encode("utf-8"), special=True)
        return upstream.TokenizeInputResponse(tokens=tokens)

    @app.post("/extras/tokenize/count", summary="Tokenize Count", tags=tags)
    def count(body: upstream.TokenizeInputRequest, proxy: LlamaProxy = the_model) -> upstream.TokenizeInputCountResponse:
        tokens = proxy(body.model).tokenize(body.input.encode("utf-8"), special=True)
        return upstream.TokenizeInputCountResponse(count=len(tokens))

    @app.post("/extras/detokenize", summary="Detokenize", tags=tags)
    def detokenize(body: upstream.DetokenizeInputRequest, proxy: LlamaProxy = the_model) -> upstream.DetokenizeInputResponse:
        llama = proxy(body.model)
        for i, token in enumerate(body.tokens):
            if not 0 <= token < llama.n_vocab():
                raise errors.WrongRequest(
                    f"tokens.{i}: found {token}, expected the numbers of tokens, 0 to {llama.n_vocab() - 1}", f"tokens.{i}"
                )
        text = llama.detokenize(body.tokens).decode("utf-8", errors="replace")
        return upstream.DetokenizeInputResponse(text=text)
