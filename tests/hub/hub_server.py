"""A small Hugging Face Hub on loopback: the calls that huggingface_hub makes to look at repositories and to download files.

It answers like the real one: paths and headers, 401 for what may not be read, X-Error-Code, byte ranges, commits. It can break
connections off, and it writes down what was asked.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Dict, List, Optional, Tuple
from urllib.parse import unquote, urlsplit

_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<verb>revision|tree)/(?P<revision>[^?]+))?")
_FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass
class Repo:
    """commits: the files of each. refs: the commit of each branch or tag. token: who may read it; None: everybody."""

    commits: Dict[str, Dict[str, bytes]] = field(default_factory=dict)
    refs: Dict[str, str] = field(default_factory=dict)
    token: Optional[str] = None
    gated: bool = False

    def push(self, files: Dict[str, bytes], ref: str = "main") -> str:
        digest = hashlib.sha1()
        for name in sorted(files):
            digest.update(name.encode() + b"\0" + files[name])
        commit = digest.hexdigest()
        self.commits[commit] = files
        self.refs[ref] = commit
        return commit


class HubServer:
    """Attributes:
    repos: What it has.
    asked: Every request: its method, its path, and how many bytes the answer's body had.
    cuts: For paths in repositories, how often a download ends in the middle.
    """

    def __init__(self) -> None:
        self.repos: Dict[str, Repo] = {}
        self.asked: List[Tuple[str, str, int]] = []
        self.cuts: Dict[str, int] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, repo: str, files: Dict[str, bytes], **settings) -> Repo:
        self.repos[repo] = Repo(**settings)
        self.repos[repo].push(files)
        return self.repos[repo]

    def sent(self, name: str) -> int:
        """Bytes of a file that went out."""
        return sum(n_bytes for method, path, n_bytes in self.asked if method == "GET" and path.endswith(f"/{name}"))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def use_hub(monkeypatch, url: str, folder: Path, offline: bool = False) -> None:
    """From now on huggingface_hub, which reads its settings when it is imported, asks this server and has this cache."""
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_HOME", str(folder / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1" if offline else "0")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("LLAMA_DFLASH_CACHE", str(folder / "cache"))
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)


def files_of(path: Path) -> dict:
    """A repository's content: a folder's files, or one file."""
    if path.is_dir():
        return {file.name: file.read_bytes() for file in path.iterdir()}
    return {path.name: path.read_bytes()}


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        file, api = _FILE.fullmatch(path), _API.fullmatch(path)
        found = file or api
        if found is None:
            return self._send(404, b"{}")
        repo = self.hub.repos.get(found["repo"])
        if repo is None or (repo.token is not None and self.headers.get("authorization") != f"Bearer {repo.token}"):
            return self._send(401, b'{"error": "Invalid username or password."}', {"X-Error-Code": "RepoNotFound"})
        revision = found["revision"] or "main"
        commit = revision if revision in repo.commits else repo.refs.get(revision)
        if commit is None:
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if api is not None:
            return self._send_json(_about(found["repo"], repo, commit, api["verb"] == "tree"))
        if repo.gated:
            return self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        content = repo.commits[commit].get(found["path"])
        if content is None:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        self._send_file(content, commit, found["path"], with_body)

    def _send_file(self, content: bytes, commit: str, name: str, with_body: bool) -> None:
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range") or "")
        status, body = 200, content
        if asked is not None:
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            status, body = 206, content[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(status, body, headers, with_body, cut=with_body and self._is_to_be_cut(name))

    def _is_to_be_cut(self, name: str) -> bool:
        left = self.hub.cuts.get(name, 0)
        self.hub.cuts[name] = left - 1
        return left > 0

    def _send_json(self, value) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Dict[str, str] = {}, with_body: bool = True, cut: bool = False) -> None:
        sent = body[: len(body) // 2] if cut else body if with_body and self.command != "HEAD" else b""
        self.hub.asked.append((self.command, urlsplit(self.path).path, len(sent)))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)
        if cut:
            self.wfile.flush()
            self.close_connection = True


def _about(name: str, repo: Repo, commit: str, as_tree: bool):
    files = repo.commits[commit]
    if as_tree:
        return [{"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()} for path, content in files.items()]
    siblings = [{"rfilename": path, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()} for path, content in files.items()]
    return {"id": name, "modelId": name, "sha": commit, "siblings": siblings, "private": repo.token is not None, "tags": [], "downloads": 0, "likes": 0}
