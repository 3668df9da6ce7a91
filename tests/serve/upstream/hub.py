"""A model hub on loopback: the part of huggingface.co's interface that llama-server downloads with, over a folder OWNER/NAME/FILE."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves `folder` until `close`. `endpoint` is what HF_ENDPOINT takes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def files(self, repo: str) -> list[dict]:
        root = self.folder / repo
        return [
            {
                "type": "file",
                "path": str(f.relative_to(root)),
                "size": f.stat().st_size,
                "oid": hashlib.sha1(f.read_bytes()).hexdigest(),
            }
            for f in sorted(root.rglob("*"))
            if f.is_file()
        ]

    def answer(self, path: str) -> bytes | None:
        """The body for a path, or None if there is nothing."""
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 5:
            repo = "/".join(parts[2:4])
            if not (self.folder / repo).is_dir():
                return None
            if parts[4] == "refs":
                return json.dumps({"branches": [{"name": "main", "targetCommit": COMMIT}]}).encode()
            if parts[4] == "tree":
                return json.dumps(self.files(repo)).encode()
            return None
        if len(parts) >= 5 and parts[2] == "resolve":
            file = self.folder / "/".join(parts[:2]) / "/".join(parts[4:])
            return file.read_bytes() if file.is_file() else None
        return None

    def _handler(hub):  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = hub.answer(self.path)
                self.send_response(404 if body is None else 200)
                body = b'{"error": "not found"}' if body is None else body
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_) -> None:
                pass

        return Handler
