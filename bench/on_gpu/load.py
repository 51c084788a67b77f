"""Many streams at a time, to SGLang itself or through the proxy: tokens a second, and the wait for the first one."""

import asyncio
import statistics
import time
from collections.abc import Sequence

import aiohttp
import msgspec
from msgspec import Struct


class Target(Struct, frozen=True, kw_only=True):
    """Where streams are asked for."""

    name: str
    url: str
    route: str
    headers: dict[str, str] = {}

    def body(self, prompt: str, ids: list[int], tokens: int) -> dict[str, object]:
        """Return a request for so many tokens with their logprobs."""
        if self.route == "/generate":
            params = {"max_new_tokens": tokens, "ignore_eos": True, "temperature": 1.0}
            return {"input_ids": ids, "sampling_params": params, "return_logprob": True, "stream": True}
        return {"model": "m", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "logprobs": 1, "stream": True}


class Found(Struct, frozen=True, kw_only=True):
    """What a load came to."""

    tokens_s: float
    first_ms: float
    """Median over streams: from the request to the first event."""


async def load(target: Target, prompts: Sequence[tuple[str, list[int]]], *, tokens: int, c: int) -> Found:
    """Ask for a completion of every prompt, `c` at a time."""
    waiting, firsts = list(prompts), list[float]()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(target.url, connector=connector, headers=target.headers) as http:

        async def client() -> None:
            while waiting:
                prompt, ids = waiting.pop()
                firsts.append(await _stream(http, target.route, target.body(prompt, ids, tokens)))

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(c)))
        wall = time.perf_counter() - began
    return Found(tokens_s=len(firsts) * tokens / wall, first_ms=1000 * statistics.median(firsts))


async def _stream(http: aiohttp.ClientSession, route: str, body: dict[str, object]) -> float:
    began, first = time.perf_counter(), 0.0
    headers = {"content-type": "application/json"}
    async with http.post(route, data=msgspec.json.encode(body), headers=headers) as reply:
        reply.raise_for_status()
        async for _ in reply.content.iter_any():
            first = first or time.perf_counter() - began
    return first
