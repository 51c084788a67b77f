"""The floor: `python -m stores.floor FILE` decodes and appends, with aiohttp and uvloop, one fsync per request.

It looks at no span and finds none again. What a store costs beyond this is what the store does.
"""

import asyncio
import os
import sys
from pathlib import Path

import uvloop
import zstandard
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


async def serve(path: Path) -> None:
    app = web.Application(client_max_size=2**26, handler_args={"auto_decompress": False})
    unpack = zstandard.ZstdDecompressor().decompress
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def traces(request: web.Request) -> web.Response:
        body = await request.read()
        ExportTraceServiceRequest.FromString(unpack(body))
        os.write(file, body)
        os.fsync(file)
        return web.Response(content_type="application/x-protobuf")

    app.router.add_post("/v1/traces", traces)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"ready http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
