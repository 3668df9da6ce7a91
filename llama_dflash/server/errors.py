"""Errors of requests, in OpenAI's form: upstream's, except where the request is to blame and upstream says 500."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from llama_cpp.server.errors import ErrorResponse, RouteErrorHandler

from ..grammars import GrammarError
from ..messages import MessageError
from .client import ClientWentAway, ServerStops
from .queue import QueueFull

_upstreams = RouteErrorHandler.error_message_wrapper
_MOST_REASONS = 6  # a message of no known form fails in as many ways as there are forms


class WrongRequest(ValueError):
    """A request that can't be answered."""

    def __init__(self, message: str, param: str = "", status: int = 400, code: Optional[str] = None) -> None:
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


class BodyTooLarge(Exception):
    """A body of more bytes than the server takes."""

    def __init__(self, n_bytes: int, max_bytes: int) -> None:
        super().__init__(
            f"the request's body has {n_bytes} bytes or more, expected {max_bytes} at most: --max_body_mb sets the limit"
        )


class Interrupted(Exception):
    """A stream that made room for another request (--interrupt_requests)."""


def error_message(handler: Any, error: Exception, body: Any = None) -> Tuple[int, ErrorResponse]:
    """The status and the error of an answer; takes the place of upstream's RouteErrorHandler.error_message_wrapper."""
    if isinstance(error, ClientWentAway):
        return 499, _request_error(str(error))  # nobody sees it
    if isinstance(error, WrongRequest):
        return error.status, _request_error(str(error), error.param, error.code)
    if isinstance(error, MessageError):
        return 400, _request_error(str(error), error.place)
    if isinstance(error, GrammarError):
        return 400, _request_error(str(error), "grammar")
    if isinstance(error, BodyTooLarge):
        return 413, _request_error(str(error))
    if isinstance(error, QueueFull):
        return 503, _server_error(str(error), "queue_full")
    if isinstance(error, ServerStops):
        return 503, _server_error(str(error), "server_stops")
    if isinstance(error, Interrupted):
        return 503, _server_error(str(error), "interrupted")
    if isinstance(error, RequestValidationError):
        found = error.errors()[: 50 * _MOST_REASONS]
        reasons = dict.fromkeys(_reason(one) for one in found)
        return 400, _request_error("; ".join(list(reasons)[:_MOST_REASONS]), _place(found[0]))
    return _upstreams(handler, error, body)


async def refuse(error: Exception, scope: Dict[str, Any], receive: Any, send: Any) -> None:
    """Answers a request that gets no further."""
    status, said = error_message(RouteErrorHandler, error)
    headers = {}
    if isinstance(error, QueueFull):
        headers["Retry-After"] = str(error.retry_seconds)
    if isinstance(error, BodyTooLarge):
        headers["Connection"] = "close"  # nobody reads the rest
    await JSONResponse({"error": said}, status_code=status, headers=headers)(scope, receive, send)


def _reason(found: Dict[str, Any]) -> str:
    place = _place(found)
    return f"{place}: {found['msg']}" if place else found["msg"]


def _place(found: Dict[str, Any]) -> str:
    return ".".join(str(part) for part in found["loc"][1:])  # the first is "body"


def _request_error(message: str, param: str = "", code: Optional[str] = None) -> ErrorResponse:
    return ErrorResponse(message=message, type="invalid_request_error", param=param or None, code=code)


def _server_error(message: str, code: str) -> ErrorResponse:
    return ErrorResponse(message=message, type="server_error", param=None, code=code)
