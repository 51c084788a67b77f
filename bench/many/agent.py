"""A callable agent that mostly waits for the model, on the official client or on plain aiohttp."""

import functools
import os
from typing import Any

import aiohttp
from openai import AsyncOpenAI


def messages(said: int) -> list[dict[str, str]]:
    """Return a conversation of its own for each call: nothing is shared between them."""
    return [{"role": "user", "content": f"Say something, for the {said}th time."}]


async def official(task: dict[str, Any]) -> str:
    """Call with the openai package, one client for all of a process: it opens a thousand connections at most."""
    for number in range(task["calls"]):
        await _official().chat.completions.create(model="policy", messages=messages(number))  # pyright: ignore[reportArgumentType]
    return "done"


async def plain(task: dict[str, Any]) -> str:
    """Call with aiohttp, which costs a tenth of it."""
    for number in range(task["calls"]):
        body = {"model": "policy", "messages": messages(number)}
        async with _plain().post(os.environ["OPENAI_BASE_URL"] + "/chat/completions", json=body) as reply:
            reply.raise_for_status()
            await reply.read()
    return "done"


@functools.cache
def _official() -> AsyncOpenAI:
    return AsyncOpenAI(timeout=600, max_retries=0)


@functools.cache
def _plain() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=600))
