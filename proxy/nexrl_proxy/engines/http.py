"""A small HTTP/1.1 client for engines: one origin, a pool of kept connections, bodies whole or as they come.

aiohttp's client costs more than all the rest of a gateway. This one leaves out what engines do not need: redirects,
cookies, compression, proxies. It never asks twice for what may have been sampled: a request is repeated only where the
caller says that this does no harm, on a kept connection that was closed before a byte of the answer came. Sockets
are `connection`'s.
"""

import asyncio
import contextlib
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from nexrl.errors import ConfigError
from nexrl_proxy.engines.connection import Connection, HttpError, Taker, UnansweredError

CONNECT_TIMEOUT_S = 10.0
IDLE_S = 4.0
"""uvicorn, which serves SGLang and vLLM, closes an idle connection after 5 s; ours have to go before."""
READ_SIZE = 2**16
DEFAULT_PORTS = {"http": 80, "https": 443}


class ConnectError(HttpError):
    """Nothing was sent: there is no connection."""


class Answer(Struct, frozen=True):
    """A response with its whole body."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Upstream:
    """One origin, `http://HOST:PORT` with a path before every request's, or `https://`."""

    def __init__(
        self, url: str, *, headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """Raise ConfigError where the URL or a header cannot be used."""
        parts = _split(url)
        assert parts.hostname
        self.url = url.rstrip("/")
        self._host, self._port = parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]
        self._base = parts.path.rstrip("/")
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._headers = _header_lines({"host": parts.netloc.rpartition("@")[2], **(headers or {})})
        self._idle: deque[Connection] = deque()
        self._closed = False
        self._arriving = memoryview(bytearray(READ_SIZE))

    async def fetch(self, method: str, path: str, body: bytes = b"", *, repeatable: bool = False) -> Answer:
        """Return the whole response; raises HttpError. `repeatable`: asking twice does no harm."""
        connection = self._kept()
        request = self._request(method, path, body)
        if connection:
            try:
                return await self._fetch(connection, request)
            except UnansweredError:
                if not repeatable:
                    raise
        return await self._fetch(await self._connect(), request)

    @contextlib.asynccontextmanager
    async def stream(self, method: str, path: str, body: bytes = b"") -> AsyncGenerator["Reply"]:
        """Send a request and yield its response while it arrives; raises ConnectError.

        An error inside closes the connection unless the response is complete: so a server learns that nobody waits.
        """
        connection = self._kept() or await self._connect()
        connection.send(self._request(method, path, body))
        try:
            yield Reply(connection)
        except BaseException:
            connection.settle(self._keep, linger=False)
            raise
        connection.settle(self._keep)

    async def close(self) -> None:
        """Close the connections nobody uses; the others close when they are done."""
        self._closed = True
        while self._idle:
            self._idle.pop().abort()
        await asyncio.sleep(0)  # closing takes a turn of the event loop

    async def _fetch(self, connection: Connection, request: bytes) -> Answer:
        connection.send(request)
        try:
            parser = await connection.whole()
        except BaseException:
            connection.abort()
            raise
        connection.settle(self._keep)
        return Answer(parser.status, parser.headers, parser.take())

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        length = f"content-length: {len(body)}\r\n" if body or method == "POST" else ""
        return f"{method} {self._base}{path} HTTP/1.1\r\n{self._headers}{length}\r\n".encode() + body

    def _kept(self) -> Connection | None:
        """Return the connection that was used last, if its server will not have closed it by now."""
        oldest = time.monotonic() - IDLE_S
        while self._idle and (self._idle[0].idle_since < oldest or not self._idle[0].usable):
            self._idle.popleft().abort()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    def _keep(self, connection: Connection) -> None:
        if self._closed:
            connection.abort()
            return
        connection.idle_since = time.monotonic()
        self._idle.append(connection)

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, self._arriving),
                    self._host,
                    self._port,
                    ssl=self._tls,
                )
        except TimeoutError as error:
            raise ConnectError(f"no connection within {CONNECT_TIMEOUT_S:g} s") from error
        except (OSError, UnicodeError) as error:
            raise ConnectError(f"no connection: {error}") from error
        return connection


class Reply:
    """A response while it arrives."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._parser = connection.parser

    async def status(self) -> int:
        """Return the status as soon as the head is there; raises HttpError."""
        while not self._parser.status:
            await self._connection.news()
        return self._parser.status

    async def read(self) -> bytes:
        """Return the rest of the body; raises HttpError."""
        return (await self._connection.whole()).take()

    async def feed(self, taker: Taker) -> bool:
        """Hand the body to `taker` as it arrives; returns whether it stopped before the end. Raises as `taker` does.

        Raises HttpError after all that came before.
        """
        return await self._connection.feed(taker)

    def cut(self) -> None:
        """End it from another task; whoever reads it gets an HttpError."""
        self._connection.abort()


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        origin = parts.scheme in DEFAULT_PORTS and parts.hostname and parts.port != 0
    except ValueError as error:
        raise ConfigError(f"{url!r} is no engine's URL: {error}") from error
    if not origin or parts.query or not url.isascii() or any(character.isspace() for character in url):
        raise ConfigError(f"{url!r} is no engine's URL: give http://HOST:PORT or https://HOST")
    return parts


def _header_lines(headers: Mapping[str, str]) -> str:
    for name, value in headers.items():
        if not value.isascii() or not value.isprintable():
            raise ConfigError(f"the {name} header cannot hold a line break or anything that is not ASCII")
    headers = {**headers, "accept-encoding": "identity", "content-type": "application/json"}
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())
