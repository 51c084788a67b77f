"""Requests as no client library would let one make them."""

import io
import json
from collections.abc import Mapping
from typing import Any

import aiohttp
from failure_clients import Dialect
from failure_world import Service, key_of


def body_of(dialect: Dialect, **more: Any) -> str:
    return json.dumps({**dialect.request, **more})


async def post(
    service: Service, path: str, body: Any, headers: Mapping[str, Any], method: str = "POST"
) -> tuple[int, dict[str, Any]]:
    """Return status and body of an answer, which must be JSON."""
    async with (
        aiohttp.ClientSession(headers={"content-type": "application/json"}) as http,
        http.request(
            method, service.url + path, data=io.BytesIO(body) if isinstance(body, bytes) else body, headers=headers
        ) as reply,
    ):
        return reply.status, json.loads(await reply.read())


def keyed(attempt: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key_of(attempt)}", **more}
