"""The API key: wanted for everything but /health, compared in a time that says nothing about it."""

from __future__ import annotations

import secrets
from typing import Any, Awaitable, Callable, Dict, Optional

from fastapi.responses import JSONResponse

_OPEN = ("/health", "/v1/health")


class ApiKey:
    """ASGI middleware that answers requests without the server's key with 401."""

    def __init__(self, app: Callable[..., Awaitable[None]], key: Optional[str], root_path: str = "") -> None:
        self._app, self._root_path = app, root_path
        self._key = None if key is None else key.encode("utf-8")

    async def __call__(self, scope: Dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http" or self._key is None or self._is_open(scope["path"]) or self._has_key(scope["headers"]):
            return await self._app(scope, receive, send)
        error = dict(message="Invalid API key", type="invalid_request_error", param=None, code="invalid_api_key")
        answer = JSONResponse({"error": error}, status_code=401, headers={"WWW-Authenticate": "Bearer"})
        await answer(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in _OPEN or any(path == self._root_path + open_path for open_path in _OPEN)

    def _has_key(self, headers: Any) -> bool:
        given = next((value for name, value in headers if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        return scheme.lower() == b"bearer" and secrets.compare_digest(key.strip(), self._key)
