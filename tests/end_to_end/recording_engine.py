"""An engine seen through glass: forwards everything to a real one and keeps what passed."""

import asyncio
import json
import threading

import aiohttp
from aiohttp import web


class RecordingEngine:
    """Serves on a port of its own, in a thread of its own, in front of the engine at `upstream`."""

    def __init__(self, upstream):
        self.upstream = upstream
        self.generated = []
        self.url = None
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self):
        runner = self._loop.run_until_complete(self._start())
        self._loop.run_forever()
        self._loop.run_until_complete(self._http.close())
        self._loop.run_until_complete(runner.cleanup())

    async def _start(self):
        self._http = aiohttp.ClientSession()
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._forward)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        self._ready.set()
        return runner

    async def _forward(self, request):
        body = await request.read()
        headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}
        async with self._http.request(
            request.method, self.upstream + request.path_qs, data=body, headers=headers
        ) as reply:
            answer = await reply.read()
        if request.path == "/generate" and reply.status == 200:
            self.generated.append((json.loads(body), json.loads(answer)))
        return web.Response(status=reply.status, body=answer, content_type=reply.content_type)
