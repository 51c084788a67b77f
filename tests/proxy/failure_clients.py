"""The official clients of the four dialects, asked alike; and the shape in which each dialect tells an error."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any

import anthropic
import openai

TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Never used; a client that has to make its own takes a twentieth of a second for it."""
HELLO = [{"role": "user", "content": "hello"}]


class Dialect:
    """One dialect through its official client."""

    path = "/v1/chat/completions"
    sdk: Any = openai
    request: Mapping[str, Any] = MappingProxyType({"messages": HELLO, "model": "m"})

    def client(self, url: str, key: str, **options: Any) -> Any:
        http = openai.DefaultAsyncHttpxClient(verify=TLS)
        return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, http_client=http, **{"max_retries": 0, **options})

    def create(self, client: Any) -> Any:
        return client.chat.completions.create

    def piece(self, event: Any) -> str:
        """Return the text that an event of a stream adds."""
        return (event.choices[0].delta.content or "") if event.choices else ""

    def whole(self, reply: Any) -> str:
        return reply.choices[0].message.content or ""

    def described(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the error in a body; fails where the shape is not the dialect's."""
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        return body["error"]

    async def say(self, url: str, key: str, **options: Any) -> str:
        """Return the text of a plain reply."""
        async with self.client(url, key, **options) as client:
            return self.whole(await self.create(client)(**self.request))

    @contextlib.asynccontextmanager
    async def stream(self, url: str, key: str, **options: Any) -> AsyncIterator[AsyncIterator[str]]:
        """Yield the pieces of a streamed reply."""
        async with self.client(url, key, **options) as client:
            events = await self.create(client)(**self.request, stream=True)
            try:
                yield (piece async for event in events if (piece := self.piece(event)))
            finally:
                await events.close()

    async def hear(self, url: str, key: str, **options: Any) -> str:
        """Return the text of a streamed reply."""
        async with self.stream(url, key, **options) as pieces:
            return "".join([piece async for piece in pieces])


class Completions(Dialect):
    path = "/v1/completions"
    request = MappingProxyType({"prompt": "hello", "model": "m", "max_tokens": 1000})

    def create(self, client: Any) -> Any:
        return client.completions.create

    def piece(self, event: Any) -> str:
        return event.choices[0].text if event.choices else ""

    def whole(self, reply: Any) -> str:
        return reply.choices[0].text


class Responses(Dialect):
    path = "/v1/responses"
    request = MappingProxyType({"input": "hello", "model": "m"})

    def create(self, client: Any) -> Any:
        return client.responses.create

    def piece(self, event: Any) -> str:
        return event.delta if event.type == "response.output_text.delta" else ""

    def whole(self, reply: Any) -> str:
        return reply.output_text


class Messages(Dialect):
    path = "/v1/messages"
    sdk = anthropic
    request = MappingProxyType({"messages": HELLO, "model": "m", "max_tokens": 1000})

    def client(self, url: str, key: str, **options: Any) -> Any:
        http = anthropic.DefaultAsyncHttpxClient(verify=TLS)
        return anthropic.AsyncAnthropic(base_url=url, api_key=key, http_client=http, **{"max_retries": 0, **options})

    def create(self, client: Any) -> Any:
        return client.messages.create

    def piece(self, event: Any) -> str:
        return event.delta.text if event.type == "content_block_delta" else ""

    def whole(self, reply: Any) -> str:
        return "".join(block.text for block in reply.content)

    def described(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["type"] == "error"
        assert set(body["error"]) == {"message", "type"}
        return body["error"]


class Listener:
    """Reads a stream piece by piece, and keeps what it heard whatever comes of it."""

    def __init__(self, letters: int) -> None:
        self.text = ""
        self.begun = asyncio.Event()
        """So many letters were heard."""
        self._letters = letters

    async def listen(self, pieces: AsyncIterator[str]) -> None:
        async for piece in pieces:
            self.text += piece
            if len(self.text) >= self._letters:
                self.begun.set()


DIALECTS = {"chat": Dialect(), "completions": Completions(), "responses": Responses(), "messages": Messages()}


async def everything(url: str, key: str) -> list[str]:
    """Return what a plain and a streamed request of every dialect get."""
    plain = [dialect.say(url, key) for dialect in DIALECTS.values()]
    return await asyncio.gather(*plain, *(dialect.hear(url, key) for dialect in DIALECTS.values()))
