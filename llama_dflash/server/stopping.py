"""How the command's server stops: at once, with an error for those whose answers it ends."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import uvicorn

from .client import end_all

STOP_SECONDS = 2.0  # from the signal to the end of the process, whatever it is in the middle of


class StoppingServer(uvicorn.Server):
    """Ends what is generated when it is told to stop, where uvicorn waits for it."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        end_all()
        super().handle_exit(sig, frame)
        last_resort = threading.Timer(STOP_SECONDS, _end, [sig])  # in a long forward, for instance
        last_resort.daemon = True
        last_resort.start()


def _end(sig: int) -> None:
    signal_number = signal.Signals(sig)
    os.write(2, f"llama_dflash.server: ends in the middle of something, {STOP_SECONDS:g} s after {signal_number.name}\n".encode())
    os._exit(128 + sig)


def run(app: Any, **options: Any) -> None:
    """uvicorn.run for this app."""
    server = StoppingServer(uvicorn.Config(app, timeout_graceful_shutdown=int(STOP_SECONDS), **options))
    try:
        server.run()
    except KeyboardInterrupt:  # as in uvicorn.run
        pass
