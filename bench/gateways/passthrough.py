"""The floor: `python -m gateways.passthrough ENGINE` forwards bytes with aiohttp on both sides and uvloop in both.

It neither parses nor records. What a gateway costs beyond this is what the gateway does.
"""

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web


async def serve(engine: str) -> None:
    app = web.Application(client_max_size=2**26)
    pool = aiohttp.TCPConnector(limit=0)
    session = aiohttp.ClientSession(connector=pool, timeout=aiohttp.ClientTimeout(total=None))

    async def forward(request: web.Request) -> web.StreamResponse:
        data = await request.read()
        headers = {"content-type": "application/json"}
        async with session.post(engine + request.path, data=data, headers=headers) as upstream:
            if upstream.content_type != "text/event-stream":
                return web.Response(body=await upstream.read(), status=upstream.status, content_type="application/json")
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            async for piece in upstream.content.iter_any():
                await response.write(piece)
            return response

    app.router.add_post("/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(f"ready http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
