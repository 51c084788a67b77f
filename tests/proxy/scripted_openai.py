"""An OpenAI-compatible upstream that answers with what it is told: a message, or the deltas of one."""

import asyncio
from typing import Any

import msgspec
from aiohttp import web

USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}}


class ScriptedOpenAI:
    """Set `message`, `deltas` or `refusal`; read `requests` and `keys`."""

    def __init__(self) -> None:
        self.message: dict[str, Any] = {"role": "assistant", "content": "hello"}
        self.deltas: list[dict[str, Any]] = [
            {"role": "assistant", "content": ""},
            {"content": "hel"},
            {"content": "lo"},
        ]
        self.finish: str | None = "stop"
        self.refusal: tuple[int, Any] | None = None
        self.hangs = False
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.left = asyncio.Event()
        """Set when a client went away before the end."""
        self.app = web.Application()
        self.app.router.add_post("/v1/chat/completions", self.chat)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        asked = msgspec.json.decode(await request.read())
        self.requests.append(asked)
        self.keys.append(request.headers.get("authorization"))
        if self.refusal:
            status, body = self.refusal
            return web.json_response(body, status=status)
        if asked["stream"]:
            return await self.stream(request)
        choice = {"index": 0, "message": self.message, "finish_reason": self.finish, "logprobs": None}
        return web.json_response({"id": "1", "choices": [choice], "usage": USAGE})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": a comment, as OpenRouter sends them\r\n\r\n")
        for delta in self.deltas:
            await send(response, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        if self.hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.left.set()
                raise
        if self.finish:
            await send(response, {"choices": [{"index": 0, "delta": {}, "finish_reason": self.finish}]})
        await send(response, {"choices": [], "usage": USAGE})
        await response.write(b"data: [DONE]\r\n\r\n")
        return response


async def send(response: web.StreamResponse, value: Any) -> None:
    await response.write(b"event: message\r\ndata: " + msgspec.json.encode(value) + b"\r\n\r\n")
    await asyncio.sleep(0)
