"""One socket to an engine: a request, its response as it arrives, the next request.

A slow reader stops the sender, a peer that vanished is noticed, and a connection is given back only where it can carry
another request. Bytes become responses in `http_parser`; which connection a request takes is `http`'s.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from nexrl.errors import ServiceError
from nexrl_proxy.engines.http_parser import ParseError, ResponseParser

LINGER_S = 1.0
MOST_UNREAD = 2**20
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 60, 15, 4


Taker = Callable[[bytes], bool]
"""Takes a piece of a body; returns whether it wants more."""


class HttpError(ServiceError):
    """A request that got no answer, or not all of it."""


class UnansweredError(HttpError):
    """The request was sent, and the connection was closed before a byte of the answer came."""


class Connection(asyncio.BufferedProtocol):
    """One socket. `arriving` may be shared by all connections of an event loop: it is emptied before another reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, arriving: memoryview) -> None:
        self._loop = loop
        self._arriving = arriving
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._error: HttpError | None = None
        self._taker: Taker | None = None
        self._stopped = False
        """The taker wants no more for now, or failed."""
        self._fault: Exception | None = None
        """What the taker raised."""
        self._wants_all = False
        self._unread = 0
        self._paused = False
        self._open = False
        self._keep: Callable[[Connection], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.parser = ResponseParser()
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        return self._open and not self._transport.is_closing()

    def send(self, request: bytes) -> None:
        """Begin an exchange."""
        self.parser = ResponseParser()
        self._wants_all = False
        self._unread = 0
        self._transport.write(request)

    async def whole(self) -> ResponseParser:
        """Return when the response is complete; raises HttpError."""
        self._wants_all = True
        self._flow()
        while not self.parser.complete:
            await self.news()
        return self.parser

    async def feed(self, taker: Taker) -> bool:
        """Hand the body to `taker` as it arrives, in the very turn of the event loop that reads it.

        Returns True once `taker` wants no more for now, and False at the body's end. Raises HttpError after all that
        came before, and what `taker` raises.
        """
        self._taker, self._stopped = taker, False
        try:
            self._hand_over()
            while not self._stopped and not self.parser.complete:
                await self.news()
        finally:
            self._taker = None
        if self._fault:
            raise self._fault
        return self._stopped

    async def news(self) -> None:
        """Return when something arrived; raises HttpError where nothing will any more."""
        if self._error:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> bytes:
        """Return the body that arrived since the last call."""
        if not self.parser.pieces:
            return b""
        self._unread = 0
        if self._paused:
            self._flow()
        return self.parser.take()

    def settle(self, keep: Callable[["Connection"], None], *, linger: bool = True) -> None:
        """End an exchange: hand the connection to `keep` if it can carry another one.

        A stream whose last event was read lingers a moment, for the few bytes that end the response.
        """
        if not self.usable:
            self.abort()
        elif self.parser.complete:
            self._reuse(keep)
        elif not linger or self._paused:
            self.abort()
        else:
            self._keep = keep
            self._timer = self._loop.call_later(LINGER_S, self.abort)

    def abort(self) -> None:
        """Close the socket at once."""
        self._open = False
        if self._timer:
            self._timer.cancel()
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._open = True
        notice_dead_peers(transport.get_extra_info("socket"))

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint  # asyncio's own way allocates 256 KiB for every read, which costs more than all the rest
        return self._arriving

    def buffer_updated(self, nbytes: int) -> None:
        self._take_in(bytes(self._arriving[:nbytes]))

    def _take_in(self, data: bytes) -> None:
        parser = self.parser
        if parser.complete:
            self.abort()  # nobody asked, so what this answers cannot be known
            return
        try:
            parser.feed(data)
        except ParseError as error:
            self._fail(HttpError(f"its answer cannot be read: {error}"))
            self.abort()
            return
        if self._keep:
            self._linger(parser)
            return
        self._unread += len(data)
        self._hand_over()
        if self._unread > MOST_UNREAD and not self._wants_all:
            self._flow()
        if parser.complete or not (self._wants_all or (self._taker is not None and not self._stopped)):
            self._wake()

    def _hand_over(self) -> None:
        """Give the taker what is there."""
        if self._taker is not None and not self._stopped and (piece := self.take()):
            try:
                self._stopped = not self._taker(piece)
            except Exception as error:  # noqa: BLE001 - it is the reader's, who waits in `feed`
                self._stopped, self._fault = True, error

    def connection_lost(self, exc: Exception | None) -> None:
        self._open = False
        if self._timer:
            self._timer.cancel()
        try:
            self.parser.eof()
            self._wake()
        except ParseError as error:
            broken = f"{error} ({exc})" if exc else str(error)
            self._fail(HttpError(broken) if self.parser.started else UnansweredError(broken))

    def _linger(self, parser: ResponseParser) -> None:
        parser.pieces.clear()
        if parser.complete and self._keep and self._timer:
            self._timer.cancel()
            keep, self._keep, self._timer = self._keep, None, None
            self._reuse(keep)

    def _reuse(self, keep: Callable[["Connection"], None]) -> None:
        if self.parser.keep_alive and not self._transport.get_write_buffer_size():
            keep(self)
        else:
            self.abort()

    def _flow(self) -> None:
        """Stop reading while a slow reader has much to read, and go on afterwards."""
        full = self._unread > MOST_UNREAD and not self._wants_all
        if full != self._paused and self.usable:
            self._paused = full
            (self._transport.pause_reading if full else self._transport.resume_reading)()

    def _fail(self, error: HttpError) -> None:
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


def notice_dead_peers(sock: socket.socket | None) -> None:
    """Have the kernel probe a silent peer: sampling has no time limit, so a vanished machine must show this way."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
