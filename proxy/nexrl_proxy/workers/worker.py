"""One worker: the proxy as it would be alone, behind the shared port, with a private socket for the other workers."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import aiohttp
from aiohttp import web
from msgspec import Struct

from nexrl_proxy.draining import drained
from nexrl_proxy.listening import Guarded, Site, runner_of, server_of
from nexrl_proxy.operating import ACCESS
from nexrl_proxy.workers import peers
from nexrl_proxy.workers.door import Door, refuse_elsewhere
from nexrl_proxy.workers.handover import Handovers
from nexrl_proxy.workers.pinning import Pinning
from nexrl_proxy.workers.supervisor import BEAT, READY, Place

MakeApp = Callable[[int, aiohttp.ClientSession], web.Application]


class Shared(Struct, frozen=True):
    """What all workers have in common."""

    workers: int
    sockets: list[socket.socket]
    """Of the public port."""
    directory: Path
    """Of the private sockets."""
    make: MakeApp
    """Returns the proxy of a worker."""
    drain_s: float
    """How long running requests may take to end once the workers are asked to stop."""


async def work(shared: Shared, place: Place) -> None:
    """Serve until told to stop, then drain; end at once where the supervisor is gone, or wants no more of that."""
    stopped, hurried = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)

    def hurry() -> None:
        loop.remove_reader(place.lifeline)
        hurried.set()
        stopped.set()

    loop.add_reader(place.lifeline, hurry)
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        app = shared.make(place.index, http)
        key = app[ACCESS].admin_key
        pinning = Pinning(place.index, shared.workers, key)
        others = peers.Peers(shared.directory, shared.workers, key)
        stack.push_async_callback(others.close)
        app.middlewares.extend([peers.for_all(others), refuse_elsewhere(pinning)])
        handovers = Handovers(shared.directory, place.index)
        stack.callback(handovers.close)
        runner = runner_of(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        private = peers.private_app(app)
        await _serve_privately(private, peers.private_path(shared.directory, place.index), stack)
        await peers.learn(private, others, [index for index in range(shared.workers) if index != place.index])
        await serve_publicly(shared.sockets, runner, pinning, handovers)
        os.write(place.report, READY)
        beating = loop.create_task(beats(place))
        stack.callback(beating.cancel)
        await stopped.wait()
        await drained(runner, shared.drain_s, hurried)


async def beats(place: Place) -> None:
    """Tell the supervisor, for ever, that this event loop turns."""
    os.set_blocking(place.report, False)
    while True:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(place.report, BEAT)
        await asyncio.sleep(place.beat_every_s)


async def _serve_privately(app: web.Application, path: Path, stack: contextlib.AsyncExitStack) -> None:
    runner = runner_of(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    stack.callback(path.unlink, missing_ok=True)
    server = server_of(runner)
    await Site(runner, _private_socket(path), lambda: Guarded(server)).start()


async def serve_publicly(
    sockets: list[socket.socket], runner: web.AppRunner, pinning: Pinning, handovers: Handovers
) -> None:
    """Accept from the public port, and take what other workers bring."""
    loop, server = asyncio.get_running_loop(), server_of(runner)
    taking: set[asyncio.Task[object]] = set()

    def connection(taken: bytes = b"") -> Door:
        return Door(server, pinning, handovers, taken=taken)

    def take(sock: socket.socket, read: bytes) -> None:
        sock.setblocking(False)
        task = loop.create_task(loop.connect_accepted_socket(lambda: connection(read), sock))
        taking.add(task)
        task.add_done_callback(taking.discard)

    handovers.open(take)
    for sock in sockets:
        await Site(runner, sock, connection).start()


def _private_socket(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.unlink(missing_ok=True)  # of a predecessor that died
    sock.bind(str(path))
    path.chmod(0o600)
    sock.listen()
    sock.setblocking(False)
    return sock
