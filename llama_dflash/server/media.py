"""Images that clients name: in the request itself (data:), or at hosts that the server's owner trusts."""

from __future__ import annotations

import base64
import binascii
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Optional, Sequence

from .errors import WrongRequest

_SECONDS = 20.0  # for a host to answer


class MediaHosts:
    """The hosts that images may be fetched from: none, until `allow` names some."""

    def __init__(self) -> None:
        self.allow((), 0)
        self._open = urllib.request.build_opener(_NoOtherHosts(self)).open

    def allow(self, hosts: Optional[Sequence[str]], max_bytes: int) -> None:
        """Allows these hosts and no others, and images up to a size."""
        self._hosts = frozenset(host.strip().lower() for host in hosts or ())
        self._max_bytes = max_bytes

    def check(self, url: Any) -> None:
        """Raises WrongRequest if an image's URL may not be fetched."""
        if not isinstance(url, str):
            raise WrongRequest(f"the URL of an image is a {type(url).__name__}, expected a text", "messages")
        if url[:5].lower() == "data:":
            return
        try:
            parts = urllib.parse.urlsplit(url)
            host = (parts.hostname or "").lower()
        except ValueError:
            host, parts = "", urllib.parse.SplitResult("", "", "", "", "")
        if parts.scheme.lower() not in ("http", "https") or host not in self._hosts:
            raise WrongRequest(
                f"images are not fetched from {url[:80]!r}: send the image itself (data:image/png;base64,...), or have the "
                "server started with --allowed_media_hosts and the host's name",
                "messages",
            )

    def load(self, url: str) -> bytes:
        """The bytes of an image.

        Raises:
            WrongRequest: If it may not be fetched, is not there, or is too large.
        """
        self.check(url)
        if url[:5].lower() == "data:":
            return _decoded(url)
        try:
            with self._open(url, timeout=_SECONDS) as answer:
                image = answer.read(self._max_bytes + 1)
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise WrongRequest(f"the image {url[:80]!r} could not be fetched: {error}", "messages") from None
        if len(image) > self._max_bytes:
            raise WrongRequest(f"the image {url[:80]!r} has more than {self._max_bytes} bytes", "messages")
        return image


class _NoOtherHosts(urllib.request.HTTPRedirectHandler):
    """A host that is trusted may not send us to one that is not."""

    def __init__(self, hosts: MediaHosts) -> None:
        self._hosts = hosts

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        self._hosts.check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _decoded(url: str) -> bytes:
    head, _, data = url.partition(",")
    try:
        if not head.lower().endswith(";base64"):
            return urllib.parse.unquote_to_bytes(data)
        return base64.b64decode(urllib.parse.unquote_to_bytes(data), validate=False)
    except (binascii.Error, ValueError) as error:
        raise WrongRequest(f"the image in a data: URL is no base64: {error}", "messages") from None
