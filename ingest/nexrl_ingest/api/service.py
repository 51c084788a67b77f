"""The service itself: whether it serves, and what it offers."""

from typing import Any

from aiohttp import web

from nexrl.prometheus import CONTENT_TYPE, exposed
from nexrl_ingest.access import EVERYBODY
from nexrl_ingest.api.context import FIGURES, STORE
from nexrl_ingest.api.openapi import description
from nexrl_ingest.api.route import Call, Route
from nexrl_ingest.wire import Health

DESCRIPTION = web.AppKey("description", dict[str, Any])
__all__ = ["DESCRIPTION", "ROUTES", "describe"]
_NOBODY = EVERYBODY - EVERYBODY
FIGURES_KEPT = (
    *("requests", "refused", "unavailable", "failed"),
    *("spans", "rejected_spans", "received_bytes", "leased_groups", "acked_groups"),
)
"""Requests, and those of them answered with 4xx, 503 and 500; what OTLP brought; what trainers took."""


def describe(routes: list[Route]) -> dict[str, Any]:
    return description(routes)


async def health(call: Call) -> Health:
    await call.app[STORE].read(lambda connection: connection.fetch_one("SELECT 1"))
    return Health()


async def metrics(call: Call) -> web.Response:
    figures = dict.fromkeys(FIGURES_KEPT, 0) | call.app[FIGURES]
    return web.Response(body=exposed("ingest", figures), headers={"Content-Type": CONTENT_TYPE})


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
        path="/metrics",
        name="metrics",
        summary="Counters of this process, for Prometheus. They name no session.",
        allow=_NOBODY,
        handler=metrics,
        reply=str,
        format="text",
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
