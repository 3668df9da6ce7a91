"""Networks of the tests' own: a proxy before a worker that takes its time, counts what passes, and can be cut.

The kernel may lack netem, so this is a process of two threads a connection: what comes in is passed on `latency` seconds
later (half a round trip), no faster than `bandwidth` allows. Delays of several messages overlap, as on a wire.
"""

from __future__ import annotations

import collections
import contextlib
import queue
import socket
import threading
import time
from typing import Callable, Counter

COMMANDS = (
    "ALLOC_BUFFER GET_ALIGNMENT GET_MAX_SIZE BUFFER_GET_BASE FREE_BUFFER BUFFER_CLEAR SET_TENSOR SET_TENSOR_HASH GET_TENSOR "
    "COPY_TENSOR GRAPH_COMPUTE GET_DEVICE_MEMORY INIT_TENSOR GET_ALLOC_SIZE HELLO DEVICE_COUNT GRAPH_RECOMPUTE MEMSET_TENSOR "
    "SET_TENSOR_PACKED GRAPH_COMPUTE_PACKED COPY_TENSOR_ASYNC"
).split()  # ggml's rpc_cmd, and three of ours


class Network:
    """A host's network, at `endpoint`.

    Attributes:
        sent: Bytes to the worker, by command.
        messages: Commands to the worker, by name.
        received: Bytes from the worker.
        answers: Messages from the worker: each is a round trip.
    """

    def __init__(
        self,
        worker: str,
        latency: float = 0.0,
        bandwidth: float | None = None,
        change: Callable[[bytes, bool], bytes] | None = None,
    ):
        """
        Args:
            worker: "host:port" of the other end.
            latency: Seconds that a byte takes in one direction.
            bandwidth: Bytes a second, in each direction.
            change: Of the bytes of one read, and whether they go to the worker: what to pass on instead.
        """
        self.worker, self.latency, self.bandwidth, self.change = worker, latency, bandwidth, change
        self.before_message: Callable[[str], None] | None = None  # called with each command's name before it passes
        self.holds_back = False  # nothing passes, and no connection ends: a network that was cut
        self.reset_counts()
        self._sockets: list[socket.socket] = []
        self._n_open = 0
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def reset_counts(self) -> None:
        self.sent: Counter[str] = collections.Counter()
        self.messages: Counter[str] = collections.Counter()
        self.received = 0
        self.answers = 0

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.break_connections()

    def wait_until_idle(self, seconds: float = 10) -> None:
        """Until the client has closed its connections, and what it sent is counted."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._n_open == 0, seconds), "a connection is still open"

    def break_connections(self) -> None:
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                host, port = self.worker.split(":")
                worker = socket.create_connection((host, int(port)))
            except OSError:
                client.close()
                continue
            for end in (client, worker):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [client, worker]
            with self._changed:
                self._n_open += 1
            self._pipe(client, worker, Requests(self))
            self._pipe(worker, client, Answers(self))

    def _pipe(self, source: socket.socket, sink: socket.socket, reader: Requests | Answers) -> None:
        line: queue.Queue[tuple[float, bytes]] = queue.Queue()
        threading.Thread(target=self._take_in, args=(source, line, reader), daemon=True).start()
        threading.Thread(target=self._pass_on, args=(line, sink), daemon=True).start()

    def _take_in(self, source: socket.socket, line: queue.Queue, reader: Requests | Answers) -> None:
        free_at = 0.0  # when the wire has sent what it was given before
        while True:
            try:
                data = source.recv(1 << 18)
            except OSError:
                data = b""
            if data and self.change is not None:
                data = self.change(data, isinstance(reader, Requests))
            reader.read(data)
            now = time.monotonic()
            free_at = max(now, free_at) + (len(data) / self.bandwidth if self.bandwidth else 0.0)
            line.put((free_at + self.latency, data))
            if not data:
                with self._changed:
                    self._n_open -= isinstance(reader, Requests)
                    self._changed.notify_all()
                return

    def _pass_on(self, line: queue.Queue, sink: socket.socket) -> None:
        while True:
            due, data = line.get()
            if due > time.monotonic():
                time.sleep(max(0.0, due - time.monotonic()))
            while self.holds_back:
                time.sleep(0.01)
            with contextlib.suppress(OSError):
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)


class _Frames:
    """What passes in one direction, in messages: a header that says how much follows."""

    n_header: int

    def __init__(self, network: Network):
        self.network = network
        self._header = b""
        self._left = 0

    def read(self, data: bytes) -> None:
        place = 0
        while place < len(data):
            if self._left > 0:
                n = min(self._left, len(data) - place)
                self._left -= n
                place += n
                continue
            part = data[place : place + self.n_header - len(self._header)]
            if not self._header:
                self.begins(part)
            self._header += part
            place += len(part)
            if len(self._header) == self.n_header:
                self._left = int.from_bytes(self._header[-8:], "little")
                self.has_header(self._left)
                self._header = b""

    def begins(self, header: bytes) -> None: ...

    def has_header(self, n_bytes: int) -> None: ...


class Requests(_Frames):
    """| command (1 byte) | size (8 bytes) | data |"""

    n_header = 9

    def begins(self, header: bytes) -> None:
        self.name = COMMANDS[header[0]] if header[0] < len(COMMANDS) else str(header[0])
        if self.network.before_message is not None:
            self.network.before_message(self.name)

    def has_header(self, n_bytes: int) -> None:
        self.network.sent[self.name] += self.n_header + n_bytes
        self.network.messages[self.name] += 1


class Answers(_Frames):
    """| size (8 bytes) | data |"""

    n_header = 8

    def has_header(self, n_bytes: int) -> None:
        self.network.received += self.n_header + n_bytes
        self.network.answers += 1
