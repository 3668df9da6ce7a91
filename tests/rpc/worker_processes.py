"""Worker processes: `llama-dflash rpc-server` on a free port of this host."""

import os
import signal
import socket
import subprocess
import sys
import threading


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Worker:
    """A process that ends with `kill`, or with this one (it watches its standard input)."""

    COMMAND = "import os, sys, threading; threading.Thread(target=lambda: (sys.stdin.read(), os._exit(3)), daemon=True).start()"

    def __init__(self, *arguments: str, port: int | None = None):
        self.port = port or free_port()
        self.endpoint = f"127.0.0.1:{self.port}"
        command = f"{self.COMMAND}; from llama_dflash import cli; sys.exit(cli.main(sys.argv[1:]))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", command, "rpc-server", "--port", str(self.port), "--threads", "1", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=os.sep,  # not a folder with a llama_dflash of its own
        )
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if "free" in line:  # its devices come last
                self._ready.set()
        self._ready.set()

    def wait_until_ready(self, seconds: float = 60) -> None:
        assert self._ready.wait(seconds), "the worker did not start"
        for _ in range(400):  # it listens a moment later
            with socket.socket() as probe:
                if self.process.poll() is not None or probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            threading.Event().wait(0.02)
        assert self.process.poll() is None, "\n".join(self.lines)

    def stop(self) -> None:
        """Its process stays, and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def go_on(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()
