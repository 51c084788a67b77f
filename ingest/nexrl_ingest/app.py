"""The HTTP server: collaborators, the table of routes, and the one shape of errors.

What is stored and how is decided in `otlp`, `ledger.py` and `pool.py`; when it is durable in the store.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from nexrl_ingest import telemetry
from nexrl_ingest.access import caller_of
from nexrl_ingest.api import events, leasing, planning, rewards, runs, service, sessions
from nexrl_ingest.api.context import ADMIN_KEY, CHANGES, FIGURES, STORE
from nexrl_ingest.groups.waiting import Changes
from nexrl_ingest.refusals import NotFoundError, RefusedError
from nexrl_ingest.store import Store

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ROUTES = [
    *planning.ROUTES,
    *leasing.ROUTES,
    *runs.ROUTES,
    *sessions.ROUTES,
    *rewards.ROUTES,
    *events.ROUTES,
    *service.ROUTES,
]
_OPEN = {route.path for route in ROUTES if not route.allow}
_KINDS: dict[int, str] = {HTTPStatus.SERVICE_UNAVAILABLE: "unavailable", HTTPStatus.INTERNAL_SERVER_ERROR: "failed"}
_log = logging.getLogger(__name__)


def make_app(*, store: Store, admin_key: str) -> web.Application:
    """Return the server; whoever runs it closes the store afterwards."""
    # Bodies are decompressed by ourselves: aiohttp would do it without zstd and without our bound.
    app = web.Application(middlewares=[_counted, _errors, _access], handler_args={"auto_decompress": False})
    app[STORE], app[ADMIN_KEY], app[CHANGES], app[FIGURES] = store, admin_key, Changes(), Counter()
    app[service.DESCRIPTION] = service.describe(ROUTES)
    app[events.WATCHERS] = events.Watchers()
    app.on_startup.append(_listen)
    app.on_shutdown.append(_stop_waiting)
    telemetry.add_routes(app)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, route.serve)
    return app


@web.middleware
async def _counted(request: web.Request, handler: Handler) -> web.StreamResponse:
    figures = request.app[FIGURES]
    try:
        response = await handler(request)
    finally:
        # Also where its client has gone, and nobody is answered.
        figures["requests"] += 1
    if response.status >= HTTPStatus.BAD_REQUEST:
        figures[_KINDS.get(response.status, "refused")] += 1
    return response


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as error:
        return _refused(request, error.status, error.type, str(error))
    except web.HTTPException as error:
        kind = NotFoundError.type if error.status == NotFoundError.status else RefusedError.type
        return _refused(request, error.status, kind, f"{request.method} {request.path}: {error.reason}")
    except ConnectionError:
        raise  # the client has gone
    except Exception:  # noqa: BLE001 - a bug is answered and logged, and the others are served on
        _log.exception("%s %s failed", request.method, request.path)
        return _refused(request, 500, "internal", "ingest failed; its log says why")


@web.middleware
async def _access(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let nobody without a key learn even which paths there are."""
    if request.path not in _OPEN:
        caller_of(request.headers.get("Authorization", ""), request.app[ADMIN_KEY])
    return await handler(request)


async def _listen(app: web.Application) -> None:
    app[CHANGES].follow(app[STORE])


async def _stop_waiting(app: web.Application) -> None:
    app[CHANGES].close()


def _refused(request: web.Request, status: int, kind: str, message: str) -> web.Response:
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(status)
    if telemetry.serves(request):
        return telemetry.refused(request, status, message, headers)
    return web.json_response({"error": {"message": message, "type": kind}}, status=status, headers=headers)
