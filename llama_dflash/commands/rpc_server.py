"""`llama-dflash rpc-server`: a worker for other hosts' models (../workers.py, docs/rpc.md)."""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import socket
import sys
import threading
from typing import Any

from ..cli import add_command

EPILOG = """\
examples:
  llama-dflash rpc-server --port 50052                     # for processes on this host
  llama-dflash rpc-server --host 10.0.0.7 --port 50052     # for a private network
  llama-dflash rpc-server --device CUDA1 --cache ~/.cache/llama-dflash/rpc

Then, on the host that generates: Llama("target.gguf", rpc_servers="10.0.0.7:50052,10.0.0.8:50052", n_gpu_layers=-1).

The protocol has NO authentication and NO encryption: whoever can reach the port can read and write this process's memory.
Listen on a private network only, or go through a tunnel (ssh -L 50052:127.0.0.1:50052 HOST). A worker serves one process at
a time, of the same version of llama-dflash. SIGTERM or Ctrl-C ends it."""


def add(commands: Any, name: str, help: str) -> None:
    parser = add_command(commands, name, help, _run, EPILOG)
    parser.add_argument("--host", default="127.0.0.1", help="IPv4 address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=50052, help="port to listen on (default: %(default)s)")
    parser.add_argument("--device", metavar="NAME,…", help="devices to offer, such as CUDA0 or CPU (default: all GPUs, else the CPU)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="of a CPU (default: %(default)s)")
    parser.add_argument("--cache", metavar="DIR", help="keep large tensors here, so that they are sent over the network once")


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise ValueError
    return port


def _run(args: argparse.Namespace) -> int:
    """Serves until it is told to end. Returns the exit code.

    Raises:
        ValueError: If the address is none of this host, or there is no such device.
        OSError: If the port can't be used.
    """
    from .. import workers

    _check_port(args.host, args.port)
    if args.cache is not None:
        args.cache = os.path.expanduser(args.cache)
        os.makedirs(args.cache, exist_ok=True)
    names = None if args.device is None else args.device.split(",")
    devices = workers.devices_to_serve(names)

    print(f"{workers.build()}: RPC worker at {args.host}:{args.port}")
    for device in devices:
        print(f"  {workers.device_text(device)}")
    if not ipaddress.ip_address(args.host).is_loopback:
        print(
            f"WARNING: {args.host} is reachable from other hosts, and the protocol has no authentication: whoever reaches the "
            "port can read and write this process's memory. Use a private network or a tunnel.",
            file=sys.stderr,
        )
    sys.stdout.flush()

    over = threading.Event()
    problems = []

    def serve() -> None:
        problems.append(workers.serve(f"{args.host}:{args.port}", devices, args.threads, args.cache))
        over.set()

    def end(*_: Any) -> None:
        over.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    threading.Thread(target=serve, daemon=True).start()  # it has no way to be told to stop
    over.wait()
    print(f"llama-dflash rpc-server: {problems[0]}" if problems else "llama-dflash rpc-server: ended", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if problems else 0)  # the thread may be in the middle of a graph: nothing may be torn down under it


def _check_port(host: str, port: int) -> None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is None or address.version != 4:
        raise ValueError(f"--host {host}: expected an IPv4 address of this host, such as 127.0.0.1 or 0.0.0.0")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{host}:{port}") from None
