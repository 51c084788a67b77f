"""Agents without a network but for the run's own services: doors into their namespace, served from out here.

The agent's 127.0.0.1 is its own; on the ports of the services there listen sockets that `confine.py` opened inside and
handed to us. What comes in there is carried to the service, so the agent's addresses are the same as everybody's.
"""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from nexrl import confine
from nexrl.errors import ConfigError

LOOPBACK = "127.0.0.1"
CHUNK = 1 << 16


class Doors(NamedTuple):
    """What `confine.py` must be told, and the file descriptors that it needs."""

    spec: dict[str, Any]
    passed: list[int]


async def check_seclusion() -> None:
    """Raise ConfigError where this machine cannot keep the network from an agent."""
    reason = "only Linux can" if sys.platform != "linux" else await _refusal()
    if reason:
        raise ConfigError(
            f"agent.network=services: the network cannot be kept from agents here ({reason}); allow user namespaces "
            "(in Docker: --security-opt seccomp=unconfined), or use agent.network=any"
        )


async def _refusal() -> str:
    command = [sys.executable, "-I", "-S", confine.__file__, '{"network": false}', "true"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    return said.decode(errors="replace").strip().splitlines()[-1] if process.returncode else ""


@asynccontextmanager
async def secluded(services: Sequence[str]) -> AsyncGenerator[Doors]:
    """Yield doors to these services, each at an address of this machine; they are served until the block ends.

    Raises ValueError for a service at another address: the agent's own loopback could not stand for it.
    """
    ports = [_port(url) for url in services]
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(_serve(ours, ports))
    try:
        yield Doors({"doors": ports, "doors_to": theirs.fileno()}, [theirs.fileno()])
    finally:
        theirs.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        ours.close()


def _port(url: str) -> int:
    parts = urlsplit(url)
    if parts.hostname not in {LOOPBACK, "localhost"} or not parts.port:
        raise ValueError(f"agent.network=services: {url} is not at {LOOPBACK}; use agent.network=any")
    return parts.port


async def _serve(ours: socket.socket, ports: Sequence[int]) -> None:
    """Take the listening sockets over, and carry what comes in at each to the service of its port."""
    await _readable(ours)
    _, descriptors, *_ = socket.recv_fds(ours, 16, len(ports))
    servers: list[asyncio.Server] = []
    carrying: set[asyncio.Task[None]] = set()

    def carry(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_carry(port, reader, writer))
        carrying.add(task)
        task.add_done_callback(carrying.discard)

    try:
        for port, descriptor in zip(ports, descriptors, strict=True):
            listening = socket.socket(fileno=descriptor)
            servers.append(await asyncio.start_server(partial(carry, port), sock=listening))
        await asyncio.Event().wait()
    finally:
        for server in servers:
            server.close()
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)


async def _readable(connection: socket.socket) -> None:
    ready, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection)


async def _carry(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        back, forth = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        writer.close()
        return
    # What breaks in one direction ends both. The end of one does not: a client that has said all it will is answered.
    with contextlib.closing(forth), contextlib.closing(writer), contextlib.suppress(OSError):
        await asyncio.gather(_pour(reader, forth), _pour(back, writer))


async def _pour(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while chunk := await source.read(CHUNK):
        target.write(chunk)
        await target.drain()
    target.write_eof()
