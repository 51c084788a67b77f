"""An engine that answers from a script: it speaks /generate, plain and streamed, and remembers what it was given."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct


class Line(Struct, kw_only=True):
    """What the engine samples for one request."""

    ids: list[int]
    logprobs: list[float] | None = None
    finish: dict[str, Any] = msgspec.field(default_factory=lambda: {"type": "stop"})
    versions: list[dict[str, Any]] | None = None
    pause_before: int | None = None
    """Index of the token before which it waits to be aborted."""
    break_before: int | None = None
    """Index of the token before which the connection breaks."""
    status: int = 200
    message: str = ""
    version: Any = "3"
    shape: str = "cumulative"


Script = Callable[[dict[str, Any]], Line]


class ScriptedEngine:
    """Set `script` to decide; read `requests` and `answers` to compare."""

    def __init__(self) -> None:
        self.script: Script = lambda _: Line(ids=[])
        self.requests: list[dict[str, Any]] = []
        self.answers: dict[str, Line] = {}
        self.sent: dict[str, int] = {}
        """How many tokens of a request left here."""
        self.aborted: dict[str, asyncio.Event] = {}
        self.paused = asyncio.Event()
        self.app = web.Application(client_max_size=2**26)
        self.app.router.add_post("/generate", self.generate)
        self.app.router.add_post("/abort_request", self.abort)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        asked = msgspec.json.decode(await request.read())
        self.requests.append(asked)
        self.aborted[asked["rid"]] = asyncio.Event()
        line = self.script(asked)
        if line.status != 200:
            return web.json_response({"error": {"message": line.message}}, status=line.status)
        if line.logprobs is None:
            line.logprobs = [-0.5 - 0.125 * index for index in range(len(line.ids))]
        self.answers[asked["rid"]] = line
        return await (self.stream if asked["stream"] else self.whole)(request, asked, line)

    async def whole(self, request: web.Request, asked: dict[str, Any], line: Line) -> web.StreamResponse:
        count = len(line.ids)
        if line.break_before is not None:
            request.transport.abort()
        if line.pause_before is not None and await self.wait(asked["rid"]):
            count = line.pause_before
        self.sent[asked["rid"]] = count
        return web.json_response(event(asked, line, count, 0, ended=True))

    async def stream(self, request: web.Request, asked: dict[str, Any], line: Line) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for count in range(1, len(line.ids) + 1):
            if line.break_before == count - 1:
                request.transport.abort()
                return response
            self.sent[asked["rid"]] = count - 1
            if line.pause_before == count - 1 and await self.wait(asked["rid"]):
                await send(response, event(asked, line, count - 1, count - 1, ended=True))
                break
            self.sent[asked["rid"]] = count
            await send(response, event(asked, line, count, count - 1, ended=count == len(line.ids)))
        if not line.ids:
            await send(response, event(asked, line, 0, 0, ended=True))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def wait(self, rid: str) -> bool:
        self.paused.set()
        async with asyncio.timeout(5):
            return await self.aborted[rid].wait()

    async def abort(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.aborted[asked["rid"]].set()
        return web.Response()


def event(asked: dict[str, Any], line: Line, count: int, before: int, *, ended: bool) -> dict[str, Any]:
    first = before if line.shape == "delta" and asked["stream"] else 0
    finish = (line.finish if count == len(line.ids) else {"type": "abort", "message": "aborted"}) if ended else None
    pairs = list(zip(line.logprobs[first:count], line.ids[first:count], strict=False))
    others = asked.get("top_logprobs_num", 0)
    tops = [[[logprob - k, token + k, None] for k in range(others)] for logprob, token in pairs]
    return {
        "output_ids": line.ids[first:count],
        "meta_info": {
            "id": asked["rid"],
            "finish_reason": finish,
            "prompt_tokens": len(asked["input_ids"]),
            "completion_tokens": count,
            "cached_tokens": 2,
            "weight_version": line.version,
            "weight_versions": line.versions,
            "output_token_logprobs": [[logprob, token, None] for logprob, token in pairs],
            **({"output_top_logprobs": tops} if others else {}),
        },
    }


async def send(response: web.StreamResponse, value: Any) -> None:
    await response.write(b"data: " + msgspec.json.encode(value) + b"\n\n")
    await asyncio.sleep(0)
