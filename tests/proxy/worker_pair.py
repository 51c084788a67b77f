"""Two workers in this process, each with a port of its own, so that a test says where it knocks."""

import asyncio
import contextlib
import tempfile
from pathlib import Path

from aiohttp import web
from proxy_world import ADMIN

from nexrl_proxy.app import errors_as_answers
from nexrl_proxy.listening import bound, runner_of
from nexrl_proxy.workers.door import refuse_elsewhere
from nexrl_proxy.workers.handover import Handovers
from nexrl_proxy.workers.pinning import Pinning, owner_of
from nexrl_proxy.workers.worker import serve_publicly

SESSIONS = [f"a-{number}" for number in range(20)]
HERE = [session for session in SESSIONS if owner_of(session, 2) == 0][:3]
THERE = [session for session in SESSIONS if owner_of(session, 2) == 1][:3]


class Worker:
    """It answers who it is; sessions are `HERE` for the first and `THERE` for the second."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.port = 0
        self.served: list[str] = []
        self.left = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.pinning = Pinning(index, 2, ADMIN)
        self.app = web.Application(middlewares=[errors_as_answers, refuse_elsewhere(self.pinning)])
        self.app.router.add_post("/s/{attempt}/v1/stream", self.stream)
        self.app.router.add_post("/{path:.*}", self.answer)

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        await self.may_answer.wait()
        self.served.append(request.path)
        return web.json_response({"worker": self.index, "bytes": len(body)})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"%d" % self.index)
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.left.set()
            raise


@contextlib.asynccontextmanager
async def started(*indexes: int):
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = []
        for index in indexes:
            worker = Worker(index)
            handovers = Handovers(directory, index)
            stack.callback(handovers.close)
            runner = runner_of(worker.app)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            sockets = bound("127.0.0.1", 0)
            worker.port = sockets[0].getsockname()[1]
            worker.runner, worker.handovers = runner, handovers
            await serve_publicly(sockets, runner, worker.pinning, handovers)
            workers.append(worker)
        yield workers


async def answered(reader: asyncio.StreamReader) -> bool:
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(len(b'{"worker": 0, "bytes": 0}'))
    return b"200 OK" in head
