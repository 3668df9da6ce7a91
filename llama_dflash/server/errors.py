"""Errors of requests, in OpenAI's form: upstream's, except where the request is to blame and upstream says 500."""

from __future__ import annotations

import json
from typing import Any, Dict, Tuple

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from llama_cpp.server.errors import ErrorResponse, RouteErrorHandler

from .client import ClientWentAway
from .requests import WrongRequest

_upstreams = RouteErrorHandler.error_message_wrapper
_MOST_REASONS = 6  # a message of no known form fails in as many ways as there are forms


def error_message(handler: Any, error: Exception, body: Any = None) -> Tuple[int, ErrorResponse]:
    """The status and the error of an answer; takes the place of upstream's RouteErrorHandler.error_message_wrapper."""
    if isinstance(error, ClientWentAway):
        return 499, _request_error(str(error))  # nobody sees it
    if isinstance(error, WrongRequest):
        return 400, _request_error(str(error))
    if not isinstance(error, RequestValidationError):
        return _upstreams(handler, error, body)
    reasons = dict.fromkeys(_reason(found) for found in error.errors())
    return 400, _request_error("; ".join(list(reasons)[:_MOST_REASONS]), _place(error.errors()[0]))


async def no_json(request: Request, error: json.JSONDecodeError) -> JSONResponse:
    """The answer to a body that is no JSON, which upstream's handler reads again in vain."""
    return JSONResponse({"error": _request_error(f"the request's body is no JSON: {error}")}, status_code=400)


def _reason(found: Dict[str, Any]) -> str:
    place = _place(found)
    return f"{place}: {found['msg']}" if place else found["msg"]


def _place(found: Dict[str, Any]) -> str:
    return ".".join(str(part) for part in found["loc"][1:])  # the first is "body"


def _request_error(message: str, param: str = "") -> ErrorResponse:
    return ErrorResponse(message=message, type="invalid_request_error", param=param or None, code=None)
