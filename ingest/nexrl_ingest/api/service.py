"""The service itself: whether it serves, and what it offers."""

from typing import Any

from aiohttp import web

from nexrl_ingest.access import EVERYBODY
from nexrl_ingest.api.context import STORE
from nexrl_ingest.api.openapi import description
from nexrl_ingest.api.route import Call, Route
from nexrl_ingest.wire import Health

DESCRIPTION = web.AppKey("description", dict[str, Any])
__all__ = ["DESCRIPTION", "ROUTES", "describe"]
_NOBODY = EVERYBODY - EVERYBODY


def describe(routes: list[Route]) -> dict[str, Any]:
    return description(routes)


async def health(call: Call) -> Health:
    await call.app[STORE].read(lambda connection: connection.fetch_one("SELECT 1"))
    return Health()


async def openapi(call: Call) -> dict[str, Any]:
    return call.app[DESCRIPTION]


ROUTES = [
    Route(
        method="GET",
        path="/health",
        name="health",
        summary="200 while the store can be read.",
        allow=_NOBODY,
        handler=health,
        reply=Health,
    ),
    Route(
        method="GET",
        path="/openapi.json",
        name="openapi",
        summary="This description.",
        allow=_NOBODY,
        handler=openapi,
        reply=dict[str, Any],
    ),
]
