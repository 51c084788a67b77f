"""The model as an episode sees it: chat completions at the proxy, as one attempt."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from nexrl.errors import ServiceError

Message = dict[str, Any]
PAUSES_S = (0.5, 2.0)
"""Between tries, where the proxy names no time of its own."""
_PASSING = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE})
_FULL = "context_length_exceeded"


class Reply(Struct, frozen=True, kw_only=True):
    """What the model said."""

    id: str
    """Of the reply, by which its call can be rewarded."""
    message: Message
    """As it was returned, and as it has to come again for the conversation to go on where it was."""


class FullError(Exception):
    """The conversation leaves the model no room for a reply."""


class Model:
    """Replies to conversations of one attempt, which `url` and `key` name; none is longer than `max_tokens`."""

    def __init__(
        self, http: aiohttp.ClientSession, *, url: str, key: str, name: str, max_tokens: int | None = None
    ) -> None:
        self._http = http
        self._url = f"{url}/chat/completions"
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._about = {"model": name, **({"max_tokens": max_tokens} if max_tokens else {})}

    async def reply(self, messages: Sequence[Message], tools: Sequence[Any] | None) -> Reply:
        """Return the model's next message; raises FullError, and ServiceError for a refusal or where nobody answers."""
        asked = {**self._about, "messages": messages, **({"tools": tools} if tools else {})}
        body = msgspec.json.encode(asked)
        status, patience_s, said = await self._post(body, 0)
        for tried, pause_s in enumerate(PAUSES_S, 1):
            if status not in _PASSING:
                break
            await asyncio.sleep(pause_s if patience_s is None else patience_s)
            status, patience_s, said = await self._post(body, tried)
        if status == HTTPStatus.OK:
            answer = msgspec.json.decode(said)
            return Reply(id=answer["id"], message=answer["choices"][0]["message"])
        if status == HTTPStatus.BAD_REQUEST and _FULL in said.decode(errors="replace"):
            raise FullError
        raise ServiceError(f"model at {self._url}: {status}: {said[:500].decode(errors='replace')}")

    async def _post(self, body: bytes, tried: int) -> tuple[int, float | None, bytes]:
        """Return the answer's status, how long it asks to wait, and its body; no answer is a 503."""
        try:
            # By this the proxy knows a repetition, and answers with what it has sampled already.
            headers = self._headers | {"x-stainless-retry-count": str(tried)}
            async with self._http.post(self._url, data=body, headers=headers) as reply:
                patience = reply.headers.get("retry-after", "")
                return reply.status, float(patience) if patience.isdigit() else None, await reply.read()
        except aiohttp.ClientError as error:
            return HTTPStatus.SERVICE_UNAVAILABLE, None, f"{type(error).__name__}: {error}".encode()
