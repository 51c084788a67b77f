"""Listen and accept: sockets, and connections that are closed where nobody says what is wanted in time.

What is asked on a connection is answered by `app`. Where several workers share a port, `workers.door` looks first
whose a request is.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from aiohttp import StreamReader, web

from nexrl.errors import ConfigError

SHUTDOWN_TIMEOUT_S = 1.0
HEAD_TIMEOUT_S = 30.0
"""A connection that takes longer to send the head of a request is closed."""
BACKLOG = 4096


def runner_of(app: web.Application) -> web.AppRunner:
    """Return the server: it cancels a handler whose client has gone, which is how an abandoned request ends."""
    return web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_TIMEOUT_S)


async def listen(runner: web.AppRunner, host: str, port: int, *, head_timeout_s: float = HEAD_TIMEOUT_S) -> int:
    """Serve on an address and return the port; raises ConfigError where that is not possible."""
    sockets = bound(host, port)
    server = server_of(runner)
    for sock in sockets:
        await Site(runner, sock, lambda: Guarded(server, head_timeout_s=head_timeout_s)).start()
    return sockets[0].getsockname()[1]


def server_of(runner: web.AppRunner) -> web.Server:
    """Return the server of a runner that was set up."""
    assert runner.server
    return runner.server


def connections_of(runner: web.AppRunner) -> "list[Guarded]":
    """Return the connections that are open."""
    return [connection for connection in server_of(runner).connections if isinstance(connection, Guarded)]


class Guarded(web.RequestHandler):
    """A connection that is closed where the head of a request does not arrive in time.

    The first one is awaited from the beginning; later ones from their first byte, so that idle connections are kept.
    """

    def __init__(self, server: web.Server, *, head_timeout_s: float = HEAD_TIMEOUT_S) -> None:
        # Packed bodies are `packing`'s: it knows when to stop.
        settings: dict[str, Any] = {"access_log": None, "auto_decompress": False}
        super().__init__(server, loop=asyncio.get_running_loop(), **settings)
        self._head_timeout_s = head_timeout_s
        self._too_late: asyncio.TimerHandle | None = None
        self._head_begun = False
        self._body: StreamReader | None = None
        """Of the latest request."""

    @property
    def idle(self) -> bool:
        """No request is being answered, and none is waiting to be."""
        waiting = self._request_count == 0 or (self._waiter is not None and not self._waiter.done())
        return waiting and not self._messages

    @property
    def arriving(self) -> bool:
        """Part of a request is here, and the rest of it is not."""
        return self._head_begun or (self._body is not None and not self._body.is_eof())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.expect_head()

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        super().data_received(data)
        if self._request_count > before:
            self._body = self._messages[-1][1]
            self.head_came()
        elif self.idle:
            self._head_begun = True
            self.expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.head_came()
        super().connection_lost(exc)

    def retire(self) -> None:
        """Close the connection where it is idle, otherwise behind the answer that is on its way.

        A request that is still arriving is let in first: the HTTP server reads nothing once it is told to close. Say it
        again until the connection is gone.
        """
        if self.arriving:
            return
        if self.idle:
            self.force_close()
        else:
            self.close()

    def expect_head(self) -> None:
        """Begin to wait for the rest of a head, unless that has begun."""
        if self._too_late is None:
            self._too_late = self._loop.call_later(self._head_timeout_s, self.force_close)

    def head_came(self) -> None:
        """Wait no longer."""
        self._head_begun = False
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None


class Site(web.BaseSite):
    """Accepts connections from a listening socket, each with a handler of its own."""

    def __init__(self, runner: web.AppRunner, sock: socket.socket, connection: Callable[[], Guarded]) -> None:
        super().__init__(runner, backlog=BACKLOG)
        self._sock = sock
        self._connection = connection

    @property
    def name(self) -> str:
        return f"http://{self._sock.getsockname()}"

    async def start(self) -> None:
        await super().start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, sock=self._sock, backlog=BACKLOG)


def bound(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets for all addresses of a host, on one port; raises ConfigError."""
    sockets: list[socket.socket] = []
    refused: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        found, refused = [], error
    for family, _, _, _, address in dict.fromkeys(found):
        place = (address[0], sockets[0].getsockname()[1], *address[2:]) if sockets else address
        try:
            sockets.append(_listening(family, place))
        except OSError as error:
            refused = error
    if not sockets:
        reason = refused.strerror if refused else "it has no address"
        raise ConfigError(f"--host {host} --port {port}: {reason}; choose another port, or 0") from refused
    return sockets


def _listening(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
