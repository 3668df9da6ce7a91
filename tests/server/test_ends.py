"""What a server does about clients that do not read, and about work that does not end."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import anyio
import pytest
from servers import ENVIRONMENT

from llama_dflash.server import streaming
from llama_dflash.server.client import Client, ClientWentAway, _client

APP = """
    import sys, time
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.routing import Route
    from llama_dflash.server import stopping

    async def work(request):
        print("works", flush=True)
        await run_in_threadpool(time.sleep, 30)  # a forward that takes that long

    stopping.run(Starlette(routes=[Route("/", work)]), host="127.0.0.1", port=int(sys.argv[1]))
"""


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_server_in_the_middle_of_a_long_forward_ends_all_the_same(tmp_path, sig):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", textwrap.dedent(APP), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path, env={**os.environ, **ENVIRONMENT}) as server:
        try:
            end = time.monotonic() + 30
            while time.monotonic() < end:
                try:
                    client = socket.create_connection(("127.0.0.1", port))
                    break
                except OSError:
                    time.sleep(0.05)
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert server.stdout.readline() == b"works\n"
            started = time.monotonic()
            server.send_signal(sig)
            assert server.wait(10) == 128 + sig
            assert 1 < time.monotonic() - started < 3
        finally:
            server.kill()
            client.close()


def test_a_client_that_does_not_read_is_taken_to_be_gone(monkeypatch):
    monkeypatch.setattr(streaming, "SEND_SECONDS", 0.05)
    client = Client()
    ended = []

    async def run():
        _client.set(client)
        send_channel, receive_channel = anyio.create_memory_object_stream(10)

        async def write():
            try:
                async with send_channel:
                    while True:
                        await send_channel.send({"data": "x"})
            finally:
                ended.append(True)

        async def send(message):
            if message["type"] == "http.response.body":
                await anyio.sleep(60)

        await streaming.EventStream(receive_channel, data_sender_callable=write, sep="\n")({}, None, send)

    asyncio.run(asyncio.wait_for(run(), 10))
    assert ended == [True]
    with pytest.raises(ClientWentAway):
        client.check()


def test_a_stream_that_waits_says_that_it_is_alive(monkeypatch):
    monkeypatch.setattr(streaming, "PING_SECONDS", 0.02)
    sent = []

    async def run(**how):
        sent.clear()
        send_channel, receive_channel = anyio.create_memory_object_stream(10)

        async def write():
            async with send_channel:
                await anyio.sleep(0.1)
                await send_channel.send({"data": "x"})

        async def send(message):
            sent.append(message.get("body"))

        await streaming.EventStream(receive_channel, data_sender_callable=write, sep="\n", **how)({}, None, send)

    asyncio.run(run())
    assert sent[1:3] == [b": ping\n\n"] * 2 and sent[-2:] == [b"data: x\n\n", b""]
    asyncio.run(run(ping_message_factory=bytes))
    assert sent[1:] == [b"data: x\n\n", b""], "with --disable_ping_events"
