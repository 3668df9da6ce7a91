"""Stands in for llama-server: answers what llama_dflash/bench/methods.py asks for, with a text of zeros."""

import argparse
import http.server
import json
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    chain = 0

    def reply(self, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.reply({"status": "ok"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["temperature"] == 0 and not asked["cache_prompt"], asked
        n = asked["n_predict"]
        timings = {"predicted_n": n, "predicted_ms": 10.0 * (n - 1)}
        if self.chain:
            timings.update(predicted_ms=5.0 * (n - 1), draft_n=self.chain * n, draft_n_accepted=(n - 1) // 2)
        self.reply({"tokens": [0] * n, "timings": timings})

    def log_message(self, *_) -> None:
        pass


if __name__ == "__main__":
    if "--version" in sys.argv:
        sys.exit(print("version: fake"))
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--spec-draft-n-max", type=int, default=0)
    args, _ = parser.parse_known_args()
    Handler.chain = args.spec_draft_n_max
    http.server.HTTPServer(("127.0.0.1", args.port), Handler).serve_forever()
