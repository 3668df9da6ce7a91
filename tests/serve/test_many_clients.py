"""32 clients of llama.cpp's server with draft trees: for some seconds in the suite, longer with `--soak-seconds 600`."""

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import drafter_models  # noqa: E402
import llama_dflash  # noqa: E402
import models  # noqa: E402
from many_clients import Client, Operator, alone, prompt_of  # noqa: E402

N_CLIENTS, N_SLOTS, SECONDS = 32, 4, 8.0
SERVER = Path(llama_dflash.__file__).parent / "bin" / "llama-dflash-server"
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.skipif(not SERVER.exists(), reason="built with -DLLAMA_DFLASH_SERVER=OFF"),
]


class Server:
    """A llama-server with trees on a free port. `states` is its --slot-save-path."""

    def __init__(self, target: Path, drafter: Path, states: Path, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self._log = f"http://127.0.0.1:{port}", log
        command = [SERVER, "-m", target, "--host", "127.0.0.1", "--port", port, "-np", N_SLOTS, "-c", 2048 * N_SLOTS]
        command += ["-t", 1, "-tb", 1, "-fa", "on", "--slots", "--metrics", "--slot-save-path", states, "--cache-ram", 8]
        command += ["--spec-type", "tree", "--spec-draft-model", drafter, "--spec-draft", "dflash,ngram"]
        # With this a CPU computes the same bits whatever else is in a batch (docs/exactness.md): texts have to be equal.
        environment = {**os.environ, "GGML_CPU_BATCH_INVARIANT": "1"}
        with log.open("a") as file:
            self.process = subprocess.Popen([str(word) for word in command], stdout=file, stderr=file, env=environment)
        end = time.monotonic() + 60
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            return httpx.get(self.url + "/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon"))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        finally:
            self.kill()

    def log(self) -> str:
        return self._log.read_text(errors="replace")


@pytest.fixture(scope="module", params=["llama", "qwen35"])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    write = models.write_hybrid if request.param in models.HYBRIDS else models.write_target
    target = drafter_models.make_predictable(write(folder / "target.gguf", request.param))
    return target, drafter_models.write_drafter(folder / "drafter.gguf", target)


@pytest.fixture
def start(pair, tmp_path):
    """Starts servers with one folder of saved slots, which are stopped when the test ends."""
    servers, states = [], tmp_path / "states"
    states.mkdir()

    def get() -> Server:
        servers.append(Server(*pair, states, tmp_path / "log"))
        return servers[-1]

    get.states = states
    yield get
    for server in servers:
        server.stop()


@pytest.fixture
def seconds(pytestconfig) -> float:
    return pytestconfig.getoption("--soak-seconds") or SECONDS


def test_many_clients_get_what_each_would_get_alone_and_memory_stays(start, seconds, capsys):
    server = start()
    expected = alone(server.url)
    texts = {answer[0] for key, answer in expected.items() if not key.startswith("forced")}
    assert len(texts) > len(expected) * 0.7, "or this shows little"
    end = time.monotonic() + seconds
    operator = Operator(server.url, N_SLOTS, end)
    clients = [Client(server.url, seed, expected, end) for seed in range(N_CLIENTS)]
    for thread in (*clients, operator):
        thread.start()
    memory = []
    while time.monotonic() < end:
        memory.append(server.rss_mib())
        time.sleep(min(1.0, seconds / 20))
    for thread in (*clients, operator):
        thread.join(120)
        assert not thread.is_alive(), server.log()[-2000:]

    wrong = [one for thread in (*clients, operator) for one in thread.wrong]
    assert not wrong, f"{len(wrong)}, the first: {wrong[0]}\n{server.log()[-2000:]}"
    counts = sum((client.counts for client in clients), Counter())
    waited = sorted(second for client in clients for second in client.seconds)
    settled = memory[len(memory) // 4 :]
    with capsys.disabled():
        print(
            f"\n{N_CLIENTS} clients, {seconds:.0f} s: {dict(counts)}, {dict(operator.counts)}; an answer takes "
            f"{waited[len(waited) // 2]:.2f} s (median), {waited[-1]:.2f} s at most; /health {1e3 * operator.slowest_health:.0f} ms at "
            f"most; memory {settled[0]:.1f} MiB after a quarter of the time, {max(settled):.1f} at most, {settled[-1]:.1f} at the end"
        )
    assert all(counts[kind] > 0 for kind in ("greedy", "sampled", "forced", "leave", "mistake")), counts
    assert max(settled) < settled[0] + 24, memory
    assert alone(server.url) == expected


def completion(server, prompt, **more):
    body = {"prompt": prompt, "n_predict": 24, "temperature": 0, **more}
    return httpx.post(server.url + "/completion", json=body, trust_env=False, timeout=60).json()


def slot(server, i, action, name):
    answer = httpx.post(f"{server.url}/slots/{i}?action={action}", json={"filename": name}, trust_env=False, timeout=60)
    return answer.status_code, answer.json()


def test_a_server_that_was_killed_at_work_starts_again_and_goes_on_from_its_saved_slots(start):
    server = start()
    prompt = prompt_of(1)
    prompt += completion(server, prompt, id_slot=0)["content"]
    status, saved = slot(server, 0, "save", "one.bin")
    assert status == 200, saved
    first = completion(server, prompt + " and on", id_slot=0)
    end = time.monotonic() + 3
    clients = [Client(server.url, seed, {}, end) for seed in range(8)]
    for client in clients:
        client.start()
    time.sleep(1)
    server.kill()
    for client in clients:
        client.join(60)
        assert not client.is_alive()

    server = start()
    status, restored = slot(server, 1, "restore", "one.bin")
    assert status == 200 and restored["n_restored"] == saved["n_saved"], restored
    again = completion(server, prompt + " and on", id_slot=1)
    assert again["content"] == first["content"]
    assert again["timings"]["cache_n"] == first["timings"]["cache_n"] > 200


def test_a_saved_slot_that_is_cut_off_or_damaged_is_an_error_of_its_request_alone(start):
    server = start()
    first = completion(server, prompt_of(1), id_slot=0)
    assert slot(server, 0, "save", "one.bin")[0] == 200
    whole = (start.states / "one.bin").read_bytes()
    for name, data in (
        ("half", whole[: len(whole) // 2]),
        ("end", whole[:-7]),
        ("header", whole[:9]),
        ("empty", b""),
        ("other", os.urandom(1000)),
    ):
        (start.states / name).write_bytes(data)
        status, answer = slot(server, 1, "restore", name)
        assert 400 <= status < 500 and "error" in answer, (name, status, answer)
        assert completion(server, prompt_of(1), id_slot=1)["content"] == first["content"], name
