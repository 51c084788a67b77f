"""A pane of glass before a server: forwards everything as it comes, streams included, and keeps what passed.

Serves on a port of its own, in a thread of its own. What passed means something to others: `agents_world` looks at what
an engine sampled, `record_traffic` at what clients send.
"""

import asyncio
import threading
from typing import Self

import aiohttp
from aiohttp import web
from msgspec import Struct

HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


class Exchange(Struct):
    """One request and its answer."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int = 0
    answer: bytes = b""


class Glass:
    """A relay to the server at `upstream`."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.exchanges: list[Exchange] = []
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="glass", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def taken(self) -> list[Exchange]:
        """Return what passed since this was asked last."""
        taken, self.exchanges = self.exchanges, []
        return taken

    def _run(self) -> None:
        runner = self._loop.run_until_complete(self._start())
        self._loop.run_forever()
        self._loop.run_until_complete(self._http.close())
        self._loop.run_until_complete(runner.cleanup())

    async def _start(self) -> web.AppRunner:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False)
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._forward)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        return runner

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        seen = Exchange(request.method, request.path_qs, dict(request.headers), await request.read())
        self.exchanges.append(seen)
        kept = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        url = self.upstream + request.path_qs
        async with self._http.request(request.method, url, data=seen.body, headers=kept) as reply:
            seen.status = reply.status
            headers = {name: value for name, value in reply.headers.items() if name.lower() not in HOP_BY_HOP}
            response = web.StreamResponse(status=reply.status, headers=headers)
            await response.prepare(request)
            async for piece in reply.content.iter_any():
                seen.answer += piece
                await response.write(piece)
            await response.write_eof()
        return response
