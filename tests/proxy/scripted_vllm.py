"""A vLLM that answers from a script: /v1/completions with token ids, plain and streamed, shaped as vLLM 0.32 does."""

import asyncio
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct


class Sampled(Struct, kw_only=True):
    """What it samples for every request."""

    ids: list[int]
    logprobs: list[float | None]
    finish: str = "stop"
    stop_reason: int | str | None = None
    hang_before: int | None = None
    """Index of the token before which it waits for ever."""
    break_before: int | None = None
    """Index of the token before which the connection breaks."""
    error_before: int | None = None
    """Index of the token before which the stream turns into an error."""
    knows_token_ids: bool = True


class ScriptedVllm:
    """Set `says`; read `requests`."""

    def __init__(self, says: Sampled) -> None:
        self.says = says
        self.requests: list[dict[str, Any]] = []
        self.hanging = asyncio.Event()
        self.left = asyncio.Event()
        """Set when a client went away before the end."""
        self.app = web.Application()
        self.app.router.add_post("/v1/completions", self.complete)
        self.app.router.add_get("/health", self.health)

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def complete(self, request: web.Request) -> web.StreamResponse:
        asked = msgspec.json.decode(await request.read())
        self.requests.append(asked)
        try:
            return await (self.stream(request, asked) if asked["stream"] else self.whole(asked))
        except asyncio.CancelledError:
            self.left.set()
            raise

    async def whole(self, asked: dict[str, Any]) -> web.Response:
        if self.says.hang_before is not None:
            await self.hang()
        choice = self.choice(asked, 0, len(self.says.ids))
        usage = {"prompt_tokens": len(asked["prompt"]), "completion_tokens": len(self.says.ids), "total_tokens": 0}
        usage["prompt_tokens_details"] = {"cached_tokens": 2}
        return web.json_response({"id": "cmpl-1", "object": "text_completion", "choices": [choice], "usage": usage})

    async def stream(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for place in range(len(self.says.ids)):
            if self.says.hang_before == place:
                await self.hang()
            if self.says.break_before == place:
                request.transport.abort()
                return response
            if self.says.error_before == place:
                await send(response, {"error": {"message": "CUDA is gone", "type": "InternalServerError", "code": 500}})
                return response
            await send(response, {"id": "cmpl-1", "choices": [self.choice(asked, place, place + 1)]})
        usage = {"prompt_tokens": len(asked["prompt"]), "prompt_tokens_details": None}
        await send(response, {"id": "cmpl-1", "choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    def choice(self, asked: dict[str, Any], start: int, end: int) -> dict[str, Any]:
        ids, logprobs = self.says.ids[start:end], self.says.logprobs[start:end]
        ended = end == len(self.says.ids)
        others = {"token_id:7": -0.01, "token_id:9": -9999.0}
        top = [{f"token_id:{token}": value, **others} for token, value in zip(ids, logprobs, strict=True)]
        return {
            "index": 0,
            "text": "x" * len(ids),
            "logprobs": {
                "text_offset": list(range(len(ids))),
                "token_logprobs": logprobs,
                "tokens": [f"token_id:{token}" for token in ids],
                "top_logprobs": [dict(list(row.items())[: asked["logprobs"] + 1]) for row in top],
            },
            "finish_reason": self.says.finish if ended else None,
            "stop_reason": self.says.stop_reason if ended else None,
            "prompt_token_ids": asked["prompt"] if start == 0 else None,
            "token_ids": ids if self.says.knows_token_ids else None,
        }

    async def hang(self) -> None:
        self.hanging.set()
        await asyncio.Event().wait()


async def send(response: web.StreamResponse, value: Any) -> None:
    await response.write(b"data: " + msgspec.json.encode(value) + b"\n\n")
    await asyncio.sleep(0)
