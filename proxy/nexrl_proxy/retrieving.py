"""What agents ask of responses that they got: the routes. What they say is `dialects.responses_stored`'s."""

from collections.abc import Callable

from aiohttp import web

from nexrl_proxy.answering import json_response
from nexrl_proxy.attribution import Caller
from nexrl_proxy.dialects import Stored
from nexrl_proxy.dialects.responses_stored import (
    deleted_of,
    input_items,
    listed,
    page_of,
    refuse_retrieval,
    response_of,
)
from nexrl_proxy.errors import ApiError
from nexrl_proxy.operating import ENDED, MODELS

NOT_FOUND = 404
Attributed = Callable[[web.Request], Caller]


class Retrieving:
    """Handlers; `caller_of` says who called, `model` is the name of the own model."""

    def __init__(self, caller_of: Attributed, model: str) -> None:
        self._caller_of = caller_of
        self._model = model

    def add_routes(self, router: web.UrlDispatcher, prefix: str) -> None:
        path = f"{prefix}/responses/{{response}}"
        router.add_get(path, self.retrieve)
        router.add_delete(path, self.delete)
        router.add_get(f"{path}/input_items", self.list_input)
        router.add_post(f"{path}/cancel", self.cancel)

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        refuse_retrieval(request.query, _includes(request))
        return json_response(response_of(await self._stored(request), _named(request), model=self._model))

    async def list_input(self, request: web.Request) -> web.StreamResponse:
        page = page_of(request.query, _includes(request))
        return json_response(listed(input_items(await self._stored(request), _named(request)), page))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Let nobody name a response any longer; what was sampled stays recorded."""
        response = _named(request)
        if not await request.app[MODELS].delete(self._session(request), response):
            raise _unknown(response)
        return json_response(deleted_of(response))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        await self._stored(request)
        raise ApiError(
            f"response {_named(request)!r} does not run in the background, and no other can be cancelled: "
            "close its connection instead",
            param="response_id",
        )

    async def _stored(self, request: web.Request) -> Stored:
        stored = await request.app[MODELS].stored(self._session(request), _named(request))
        if stored is None:
            raise _unknown(_named(request))
        return stored

    def _session(self, request: web.Request) -> str:
        session = self._caller_of(request).session
        request.app[ENDED].refuse(session)
        return session


def _named(request: web.Request) -> str:
    return request.match_info["response"]


def _includes(request: web.Request) -> list[str]:
    """Return the values of a list in a query, in the ways in which clients write one."""
    given = [value for name in ("include", "include[]") for value in request.query.getall(name, [])]
    return [part for value in given for part in value.split(",")]


def _unknown(response: str) -> ApiError:
    message = (
        f"response {response!r} is not known in this session: it was never given here, asked not to be stored, "
        "was deleted, or is too old to be kept"
    )
    return ApiError(message, status=NOT_FOUND, param="response_id", code="response_not_found")
