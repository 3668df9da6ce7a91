"""Who may ask, and what the server may be made to fetch."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from servers import HTTP

from llama_dflash.server.errors import WrongRequest
from llama_dflash.server.media import MediaHosts


def get(server, path, key=None, method="GET", **headers):
    headers = {**headers, **({"Authorization": key} if key is not None else {})}
    return HTTP.request(method, server.url + path, headers=headers, timeout=10)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/metrics", "/v1/models", "/nowhere", "/"])
def test_with_a_key_everything_wants_it(strict, path):
    for key in (None, "", "Bearer", "Bearer wrong", "Bearer secre", "Bearer secretx", "Basic secret", "secret", "Bearer \xe9"):
        answer = get(strict, path, None if key is None else key.encode("latin-1"))
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key", key
    assert get(strict, path, "Bearer secret").status_code == get(strict, path, "bearer secret").status_code != 401


def test_with_a_key_health_wants_none_and_says_nothing_more(strict):
    for path in ("/health", "/v1/health"):
        assert get(strict, path).json() == {"status": "ok"}
    for path in ("/health/", "/x/health", "//health"):
        assert get(strict, path).status_code == 401


def test_a_body_is_not_read_for_who_has_no_key(strict):
    assert HTTP.post(f"{strict.url}/v1/completions", content=b"x" * 400_000, timeout=10).status_code == 401


def test_a_wrong_key_is_compared_in_a_time_that_says_nothing_about_it(monkeypatch):
    import asyncio
    import secrets

    from llama_dflash.server.keys import ApiKey

    compared, answered = [], []
    compare = secrets.compare_digest
    monkeypatch.setattr(secrets, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))

    async def send(message):
        answered.append(message)

    scope = {"type": "http", "path": "/v1/models", "headers": [(b"authorization", b"Bearer secres")]}
    asyncio.run(ApiKey(None, "secret")(scope, None, send))
    assert compared == [(b"secres", b"secret")] and answered[0]["status"] == 401


def test_without_a_key_nothing_wants_one(drafted):
    for path in ("/docs", "/openapi.json", "/metrics", "/v1/models"):
        assert get(drafted, path).status_code == 200


def test_pages_of_other_origins_may_ask_but_not_with_a_browsers_credentials(strict, drafted):
    asks = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for server in (strict, drafted):
        answer = get(server, "/v1/completions", method="OPTIONS", **asks, **{"Access-Control-Request-Headers": "authorization"})
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "*"
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in answer.headers
        answer = get(server, "/health", Origin="https://evil.example", Cookie="a=b")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
    assert get(strict, "/v1/models", Origin="https://a.example").headers["access-control-allow-origin"] == "*", "errors, too"


# ---------------------------------------------------------------- images


@pytest.fixture
def host():
    """A web server at a free port of 127.0.0.1."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path.startswith("/to?"):
                self.send_response(302)
                self.send_header("Location", self.path[4:])
                return self.end_headers()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * int(self.path[1:]))

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.port = asked, server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def media():
    media = MediaHosts()
    media.allow(["127.0.0.1"], 1000)
    return media


def test_an_image_is_fetched_from_a_host_that_is_allowed(media, host):
    assert media.load(f"http://127.0.0.1:{host.port}/900") == b"x" * 900
    assert media.load(f"http://127.0.0.1:{host.port}/to?/5") == b"x" * 5
    assert media.load("data:image/png;base64,QUJD") == b"ABC" and media.load("data:,a%20b") == b"a b"


@pytest.mark.parametrize(
    "url, said",
    [
        ("http://localhost:{port}/5", "not fetched"),
        ("http://127.0.0.1@localhost:{port}/5", "not fetched"),
        ("file:///etc/passwd", "not fetched"),
        ("/etc/passwd", "not fetched"),
        ("http://127.0.0.1:{port}/to?http://localhost:{port}/5", "not fetched"),
        ("http://127.0.0.1:{port}/to?file:///etc/passwd", "not fetched|could not be fetched"),
        ("http://127.0.0.1:{port}/1001", "more than 1000 bytes"),
        ("http://127.0.0.1:1/5", "could not be fetched"),
        ("data:image/png;base64,QUJ", "no base64"),
    ],
)
def test_an_image_is_fetched_from_nowhere_else(media, host, url, said):
    with pytest.raises(WrongRequest, match=said):
        media.load(url.format(port=host.port))
    assert [path for path in host.asked if path == "/5"] == []


def test_no_host_is_allowed_unless_it_is_named(host):
    with pytest.raises(WrongRequest, match="--allowed_media_hosts"):
        MediaHosts().load(f"http://127.0.0.1:{host.port}/5")
    assert host.asked == []
