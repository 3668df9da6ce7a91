"""`llama-dflash rpc-server`: what it says, and how it ends."""

import signal

import pytest
from conftest import Pair
from worker_processes import Worker, free_port

from llama_dflash import cli, workers as workers_module


def test_it_names_its_build_its_address_its_devices_and_their_memory(workers):
    worker = workers(1)[0]
    assert worker.lines[0] == f"{workers_module.build()}: RPC worker at {worker.endpoint}"
    assert worker.lines[1].startswith("  CPU: ") and worker.lines[1].endswith(" MiB free")
    assert not any("WARNING" in line for line in worker.lines)


def test_an_address_that_others_reach_comes_with_a_warning(workers):
    worker = workers(1, arguments=("--host", "0.0.0.0"))[0]
    worker.kill()
    assert any(line.startswith("WARNING") and "no authentication" in line for line in worker.lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_code_0(number, dense, workers):
    worker = workers(1)[0]
    llm = dense.load("plain", [worker])  # also while a client is connected
    worker.process.send_signal(number)
    assert worker.process.wait(10) == 0
    llm.close()


def test_a_port_that_is_taken_is_an_error(workers):
    worker = workers(1)[0]
    second = Worker(port=worker.port)
    assert second.process.wait(30) == 1
    second.kill()
    assert second.lines == [f"llama-dflash rpc-server: {worker.endpoint}: Address already in use"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--host", "nowhere"], "--host nowhere: expected an IPv4 address of this host"),
        (["--host", "192.0.2.1"], "192.0.2.1:{}: Cannot assign requested address"),
        (["--device", "CUDA7"], "no device 'CUDA7', expected some of: CPU"),
    ],
)
def test_wrong_arguments_are_a_sentence(arguments, sentence, capsys):
    port = free_port()
    assert cli.main(["rpc-server", "--port", str(port), *arguments]) == 1
    assert sentence.format(port) in capsys.readouterr().err


def test_the_cache_spares_sending_large_tensors_again(tmp_path_factory, tmp_path, workers, networks):
    pair = Pair(tmp_path_factory.mktemp("large"), "llama", n_embd=512, n_ff=6144, n_layer=1)  # matrices of 12 MB
    ends = networks(workers(1, arguments=("--cache", str(tmp_path / "cache"))))
    bytes_sent = []
    for _ in range(2):
        ends[0].reset_counts()
        llm = pair.load("plain", ends)
        bytes_sent.append(sum(ends[0].sent.values()))
        text = pair.tokens(llm, 4)
        llm.close()
    assert bytes_sent[1] < 0.5 * bytes_sent[0]
    alone = pair.load("plain")
    assert text == pair.tokens(alone, 4)
    alone.close()
