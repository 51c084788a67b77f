"""A connection at a port that several workers share: each request on it is answered by the worker it belongs to.

The head of a request is read before the HTTP server sees it. Where the request is another worker's, the connection
goes there, with everything after it: streams and hang-ups reach that worker directly.
"""

import asyncio

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from nexrl_proxy.errors import ApiError
from nexrl_proxy.listening import HEAD_TIMEOUT_S, Guarded
from nexrl_proxy.workers.handover import Handovers
from nexrl_proxy.workers.pinning import Pinning, read_head

HEAD_ENDS = b"\r\n\r\n"
LONGEST_HEAD = 64 * 1024
"""The HTTP server refuses shorter ones already."""
PATIENCE_S = 30.0
"""How long a request waits for its worker, which may just be starting again."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.001, 0.1


class Door(Guarded):
    """One connection. `taken` is what another worker read from it: the request for which it was brought here."""

    def __init__(
        self,
        server: web.Server,
        pinning: Pinning,
        handovers: Handovers,
        *,
        taken: bytes = b"",
        patience_s: float = PATIENCE_S,
        head_timeout_s: float = HEAD_TIMEOUT_S,
    ) -> None:
        super().__init__(server, head_timeout_s=head_timeout_s)
        self._pinning = pinning
        self._handovers = handovers
        self._patience_s = patience_s
        self._unserved = taken
        """Read, and not given to the HTTP server yet."""
        self._leaving: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._unserved:
            self._serve()

    @property
    def arriving(self) -> bool:
        return bool(self._unserved) or super().arriving

    def retire(self) -> None:
        """Do as every connection, once a request was brought to its worker, or refused: one that is gone stays away."""
        self._patience_s = 0.0
        super().retire()

    def data_received(self, data: bytes) -> None:
        # The HTTP server calls this itself, without data, to go on with what it held back.
        if not data or (self._body is not None and not self._body.is_eof()):
            super().data_received(data)
            return
        self._unserved += data
        if HEAD_ENDS not in self._unserved and len(self._unserved) < LONGEST_HEAD:
            self.expect_head()
            return
        owner = self._pinning.elsewhere(*read_head(self._unserved))
        if owner is None:
            self._serve()
        elif not self._left(owner):
            self._leaving = self._loop.create_task(self._leave(owner))

    def _serve(self) -> None:
        """Let the HTTP server of this worker have what was read."""
        data, self._unserved = self._unserved, b""
        super().data_received(data)

    def _left(self, owner: int) -> bool:
        """Give the connection away, where nothing is under way on it and the owner takes it."""
        transport = self.transport
        if transport is None or not self.idle or transport.get_write_buffer_size():
            return False
        transport.pause_reading()
        descriptor = transport.get_extra_info("socket").fileno()
        if not self._handovers.send(owner, descriptor, self._unserved):
            return False
        transport.abort()  # closes this worker's descriptor; the connection lives as long as the other's
        return True

    async def _leave(self, owner: int) -> None:
        """Give the connection away as soon as that is possible; after a while, let it be refused here."""
        transport = self.transport
        assert transport
        transport.pause_reading()
        self.head_came()
        pause_s, began = 0.0, self._loop.time()
        while True:
            await asyncio.sleep(pause_s)
            if transport.is_closing() or self._left(owner):
                return
            if self._loop.time() >= began + self._patience_s:
                break
            pause_s = min(max(2 * pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        transport.resume_reading()
        self._serve()


def refuse_elsewhere(pinning: Pinning) -> Middleware:
    """Return the middleware that answers no request of another worker's session.

    There are such requests where that worker was away for long, or where a client sends its next request before the
    first one is answered. A new connection, which the refusal asks for, is brought where it belongs.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        owner = pinning.elsewhere(request.path, request.headers)
        if owner is None:
            return await handler(request)
        request.protocol.close()
        raise ApiError(
            f"this session is worker {owner}'s, which did not take the connection: send the request again",
            status=503,
            kind="service_unavailable_error",
            code="worker_unavailable",
        )

    return middleware
