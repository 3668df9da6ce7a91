"""Whatever body comes, the server answers it and goes on: `--bodies N` for more of them than the suite's."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from asking import complete, text_of
from fuzz_bodies import make
from servers import HTTP, OPTIONS, arguments

RIGHT = {200, 400, 404}
SECONDS = 12  # of the suite
N_CLIENTS = 4


@pytest.fixture(scope="module")
def server(start, pair):
    """With a small context: some bodies ask for all the text that fits."""
    options = {**OPTIONS, "n_ctx": 256, "verbose": False}
    return start(*arguments(model=pair.target, draft_model=pair.drafter, draft_model_budget=12, **options))


def test_no_body_stops_the_server_or_is_its_error(server, pytestconfig):
    n_bodies = pytestconfig.getoption("--bodies", None)
    seconds = SECONDS if n_bodies is None else float("inf")
    seed = pytestconfig.getoption("--bodies_seed", 0)
    expected = text_of(complete()(server.client()))
    before, started = server.log, time.monotonic()

    def ask(seed):
        if time.monotonic() - started > seconds:
            return 0
        path, body = make(random.Random(seed))
        answer = HTTP.post(server.url + path, content=body, headers={"Content-Type": "application/json"}, timeout=60)
        assert answer.status_code in RIGHT, f"seed {seed}: {path} {body!r}\n{answer.status_code} {answer.text}"
        if "internal_server_error" in answer.text and answer.text.startswith("data:"):
            pytest.fail(f"seed {seed}: {path} {body!r}\n{answer.text}")
        return answer.status_code

    first = 1_000_000 * seed
    with ThreadPoolExecutor(N_CLIENTS) as threads:
        statuses = list(threads.map(ask, range(first, first + (n_bodies or 1000))))
    asked = [status for status in statuses if status]
    assert len(asked) >= 100 and asked.count(200) >= len(asked) / 10, "or this shows little"
    assert "Traceback" not in server.log[len(before) :]
    assert text_of(complete()(server.client())) == expected
