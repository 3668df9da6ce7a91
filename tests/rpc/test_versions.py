"""Client and worker must be the same build; whoever is not is refused with a sentence that names both."""

import contextlib
import socket

import pytest

from llama_dflash import WorkerError, __version__, workers as workers_module

OURS = workers_module.build()


def test_the_build_is_named_with_its_version():
    assert OURS.startswith(f"llama-dflash {__version__} (llama.cpp ") and OURS.endswith(" ops)")


def test_a_worker_of_another_version_is_refused_with_both_names(dense, workers, networks):
    other = OURS.replace(__version__, "9" * len(__version__))

    def older(data: bytes, to_worker: bool) -> bytes:
        return data if to_worker else data.replace(OURS.encode(), other.encode())

    ends = networks(workers(1), change=older)
    with pytest.raises(WorkerError) as error:
        dense.load("tree", ends)
    assert f"is {other}, and this is {OURS}" in str(error.value)


def test_a_stock_worker_is_refused_with_both_names(dense, workers, networks):
    def stock(data: bytes, to_worker: bool) -> bytes:
        hello = (28).to_bytes(8, "little")  # the size of HELLO's answer: major, minor, patch, padding, 24 bytes
        if to_worker or not data.startswith(hello) or len(data) != 36:
            return data
        return data[:10] + b"\0\0" + data[12:]  # patch and padding as a stock worker sends them

    ends = networks(workers(1), change=stock)
    with pytest.raises(WorkerError) as error:
        dense.load("tree", ends)
    assert "is a stock llama.cpp (RPC protocol 7.0.0), and this is " + OURS in str(error.value)


def hello() -> bytes:
    return b"\x0e" + (24).to_bytes(8, "little") + bytes(24)


def wait_for_the_end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it did not read all of it, or is gone already
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass


# what a stock client sends next: it asks for the number of devices; then what no client sends
STRANGERS = {
    "a stock client": hello() + b"\x0f" + bytes(8),
    "a client of another version": hello() + b"\xdf" + (5).to_bytes(8, "little") + b"other",
    "a name that does not end": hello() + b"\xdf" + (2**63).to_bytes(8, "little") + b"x" * 999,
    "an old client": b"\x0f" + bytes(8),
    "a web browser": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("what", STRANGERS)
def test_who_is_no_client_of_this_build_is_sent_away_and_harms_nothing(what, dense, workers):
    ends = workers(1)
    with socket.create_connection(("127.0.0.1", ends[0].port), timeout=10) as stranger:
        stranger.sendall(STRANGERS[what])
        wait_for_the_end(stranger)
    llm = dense.load("tree", ends)
    assert len(dense.tokens(llm, 5)) == 5
    llm.close()
    assert ends[0].process.poll() is None
    if "client" in what and "old" not in what:
        assert any("refused a client that is" in line and OURS in line for line in ends[0].lines), ends[0].lines
