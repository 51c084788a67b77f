"""A real `nexrl proxy --workers N`: its processes, its engine from a script, its ingest, and clients."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
from aiohttp import web
from proxy_world import ADMIN, served, until
from scripted_engine import Line, ScriptedEngine
from stub_ingest import StubIngest

from nexrl.keys import attempt_key
from nexrl.records import encode

HELLO = {"role": "user", "content": "hello"}
AS_ADMIN = {"authorization": f"Bearer {ADMIN}"}


class TellingIngest(StubIngest):
    """One that also tells what it has, as proxies ask after a restart."""

    def __init__(self) -> None:
        super().__init__()
        self.app.router.add_get("/api/sessions/{session}/calls", self.tell)

    async def tell(self, request: web.Request) -> web.Response:
        session = request.match_info["session"]
        return web.Response(body=encode([call for call in self.calls if call.session == session]))


class Proxy:
    """The process, and what it left in the directory for temporary files, which is its own."""

    def __init__(self, model: Path, data: Path, engine: str, ingest: str, *flags: str) -> None:
        # A path that pytest makes would be too long for a socket.
        self.directory = tempfile.TemporaryDirectory(prefix="nexrl-test-")
        self.sockets, self.errors = Path(self.directory.name, "t"), Path(self.directory.name, "errors")
        self.sockets.mkdir()
        command = [sys.executable, "-m", "nexrl_proxy", "--engine", engine, "--model", str(model), "--ingest", ingest]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*command, "--data", str(data), "--port", "0", *flags],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env={**os.environ, "NEXRL_ADMIN_KEY": ADMIN, "TMPDIR": str(self.sockets)},
            )  # fmt: skip
        self.line = self.process.stdout.readline()
        self.url = self.line.removeprefix("ready ").strip()

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def end(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.close()

    def close(self) -> int:
        code = self.process.wait(timeout=20)
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()
        return code

    def said(self) -> str:
        """Return what it wrote to standard error."""
        return self.errors.read_text()

    def left(self) -> list[str]:
        """Return the files and sockets that are still there."""
        return sorted(str(path) for path in self.sockets.rglob("*") if not path.is_dir())


class World:
    """Engine, ingest and a client in this process, the proxy in others."""

    def __init__(self) -> None:
        self.engine = ScriptedEngine()
        self.ingest = TellingIngest()
        self.engine.script = lambda _: Line(ids=[300, 301])
        self.proxy: Proxy
        self.http: aiohttp.ClientSession

    async def chat(self, attempt: str, *messages: dict[str, str], http: aiohttp.ClientSession | None = None) -> dict:
        """Return the reply's message, with the id of the response."""
        headers = {"authorization": f"Bearer {attempt_key(attempt, ADMIN)}"}
        body = {"messages": [HELLO, *messages]}
        async with (http or self.http).post(f"{self.proxy.url}/v1/chat/completions", json=body, headers=headers) as got:
            assert got.status == 200, await got.text()
            reply = await got.json()
        return {"id": reply["id"], **reply["choices"][0]["message"]}

    async def talk(self, attempt: str, turns: int, *, http: aiohttp.ClientSession | None = None) -> list[str]:
        """Return the ids of the responses of a conversation."""
        said, ids = [], []
        for turn in range(turns):
            reply = await self.chat(attempt, *said, http=http)
            ids.append(reply.pop("id"))
            said += [reply, {"role": "user", "content": f"turn {turn}"}]
        return ids

    async def ask(self, method: str, path: str, **more) -> tuple[int, dict]:
        async with self.http.request(method, self.proxy.url + path, headers=AS_ADMIN, **more) as got:
            return got.status, await got.json()

    async def flush(self, attempt: str) -> int:
        status, reply = await self.ask("POST", f"/api/sessions/{attempt}/flush?timeout_s=10")
        assert status == 200, reply
        return reply["calls"]

    async def stats(self) -> dict:
        return (await self.ask("GET", "/api/stats"))[1]

    def chains(self) -> Counter[str]:
        """Return how many chains each session has at ingest."""
        return Counter(call.session for call in self.ingest.calls if call.parent is None)


@contextlib.asynccontextmanager
async def workers_of(model: Path, data: Path, workers: int, *flags: str) -> AsyncIterator[World]:
    world = World()
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(served(world.engine.app))
        ingest = await stack.enter_async_context(served(world.ingest.app))
        world.http = await stack.enter_async_context(aiohttp.ClientSession())
        world.proxy = await asyncio.to_thread(Proxy, model, data, engine, ingest, "--workers", str(workers), *flags)
        stack.callback(world.proxy.directory.cleanup)
        try:
            yield world
        finally:
            if world.proxy.process.poll() is None:
                await asyncio.to_thread(world.proxy.end)


async def gone(processes: list[psutil.Process]) -> None:
    """Wait until none of these processes is there."""
    await until(lambda: not any(map(alive, processes)))


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
