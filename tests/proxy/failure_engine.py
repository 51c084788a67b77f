"""An engine in a process of its own, to be killed: it samples random letters and writes down what it sampled.

Run as `python failure_engine.py --port P --script FILE --journal FILE`. The script is read anew for every request; the
journal has a line for every token, written before the token is sent, so that it outlives `kill -9`.
"""

import argparse
import asyncio
import contextlib
import os
import random
import time
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct
from scripted_engine import Line, event, send

LONGEST_S = 60.0


class Script(Struct, kw_only=True):
    """What every request gets."""

    letters: list[int] = []
    """Token ids to draw from."""
    eos: int = 0
    count: int = 6
    """Tokens, the end of turn included."""
    first_s: float = 0.0
    """Silence before the first token."""
    step_s: float = 0.0
    """Silence before each further one."""
    hang_at: int | None = None
    """After so many tokens it waits until it is aborted."""
    status: int = 200
    message: str = ""
    """What it refuses with, unless `status` is 200."""
    version: str = "3"


class Entry(Struct, omit_defaults=True):
    """A line of the journal."""

    kind: str
    """`asked`, `token` or `aborted`."""
    rid: str
    at: float
    """Of the clock all processes share."""
    token: int | None = None
    input_ids: list[int] | None = None


class Engine:
    """Answers `/generate` from the script."""

    def __init__(self, script: Path, journal: Path) -> None:
        self._script = script
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._aborted: dict[str, asyncio.Event] = {}

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/generate", self.generate)
        app.router.add_post("/abort_request", self.abort)
        app.router.add_get("/health", lambda _: asyncio.sleep(0, web.Response()))
        return app

    async def generate(self, request: web.Request) -> web.StreamResponse:
        asked = msgspec.json.decode(await request.read())
        script = msgspec.json.decode(self._script.read_bytes(), type=Script)
        self._write("asked", asked["rid"], input_ids=asked["input_ids"])
        if script.status != 200:
            return web.json_response({"error": {"message": script.message}}, status=script.status)
        ids = [*random.choices(script.letters, k=script.count - 1), script.eos]
        logprobs = [-0.5 - 0.125 * index for index in range(len(ids))]
        line = Line(ids=ids, logprobs=logprobs, version=script.version)
        aborted = self._aborted[asked["rid"]] = asyncio.Event()
        return await (self._stream if asked["stream"] else self._whole)(request, asked, line, script, aborted)

    async def _stream(
        self, request: web.Request, asked: dict[str, Any], line: Line, script: Script, aborted: asyncio.Event
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for index, token in enumerate(line.ids):
            if await self._ended(aborted, script, index):
                await send(response, event(asked, line, index, index, ended=True))
                break
            self._write("token", asked["rid"], token=token)
            await send(response, event(asked, line, index + 1, index, ended=index + 1 == len(line.ids)))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _whole(
        self, request: web.Request, asked: dict[str, Any], line: Line, script: Script, aborted: asyncio.Event
    ) -> web.StreamResponse:
        del request
        count = 0
        while count < len(line.ids) and not await self._ended(aborted, script, count):
            count += 1
        for token in line.ids[:count]:
            self._write("token", asked["rid"], token=token)
        return web.json_response(event(asked, line, count, 0, ended=True))

    async def _ended(self, aborted: asyncio.Event, script: Script, index: int) -> bool:
        """Wait as the script wants before a token; returns whether the request was aborted."""
        wait = script.step_s if index else script.first_s
        if index == script.hang_at:
            wait = LONGEST_S
        if wait:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await aborted.wait()
        return aborted.is_set()

    async def abort(self, request: web.Request) -> web.Response:
        rid = (await request.json())["rid"]
        self._write("aborted", rid)
        if rid in self._aborted:
            self._aborted[rid].set()
        return web.Response()

    def _write(self, kind: str, rid: str, **more: Any) -> None:
        os.write(self._journal, msgspec.json.encode(Entry(kind, rid, time.monotonic(), **more)) + b"\n")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    given = parser.parse_args()
    runner = web.AppRunner(Engine(given.script, given.journal).app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", given.port, backlog=4096).start()
    print(f"ready http://127.0.0.1:{given.port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
