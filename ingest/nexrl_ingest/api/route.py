"""A route, declared once: what the server registers, and what `openapi.py` describes.

The declaration does what every handler would: who is calling, may they, what did they send, how is it answered.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from aiohttp import web
from msgspec import Struct

from nexrl.keys import Kind
from nexrl_ingest.access import Caller, caller_of, require
from nexrl_ingest.api import bodies
from nexrl_ingest.api.context import ADMIN_KEY
from nexrl_ingest.refusals import RefusedError

Format = Literal["json", "packed", "events", "text"]


class NoQuery(Struct, frozen=True):
    """No parameters."""


class Call(Struct, frozen=True, kw_only=True):
    """One request, as a handler needs it."""

    request: web.Request
    caller: Caller
    body: Any = None
    """Of the type the route declares."""
    query: Any = None

    @property
    def app(self) -> web.Application:
        return self.request.app

    def part(self, name: str) -> str:
        """Return a part of the path."""
        return self.request.match_info[name]


class Route(Struct, frozen=True, kw_only=True):
    """One method of one path."""

    method: Literal["GET", "POST", "PUT"]
    path: str
    name: str
    """The operation's id: unique, for generated clients."""
    summary: str
    allow: frozenset[Kind]
    """Kinds of keys that are let in; empty for a route that asks for none."""
    handler: Callable[[Call], Awaitable[Any]]
    body: type | None = None
    body_format: Literal["application/json", "application/msgpack"] = "application/json"
    query: type = NoQuery
    reply: Any = None
    """The type of what is answered."""
    format: Format = "json"
    own: bool = False
    """The path's `id` is a session, and a key of one session reaches that one alone."""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        call = Call(
            request=request,
            caller=self._admit(request),
            query=bodies.query(request, self.query),
            body=await bodies.record(request, self.body, self.body_format) if self.body else None,
        )
        answer = await self.handler(call)
        if isinstance(answer, web.StreamResponse):
            return answer
        return bodies.json_reply(answer) if self.format == "json" else await bodies.packed_reply(answer)

    def _admit(self, request: web.Request) -> Caller:
        if not self.allow:
            return Caller("read")
        caller = caller_of(request.headers.get("Authorization", ""), request.app[ADMIN_KEY])
        require(caller, self.allow, request.match_info["id"] if self.own else None)
        if any("\0" in value for value in request.match_info.values()):
            raise RefusedError(f"path {request.path!r}: an id cannot hold a NUL character")
        return caller
