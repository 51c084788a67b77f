"""What operators and the trainer ask of the proxy: sessions flushed, the door held while weights change, counters.

Every route here needs the admin key, but `/health`, and `/metrics`, which names no session.
"""

import asyncio
from collections.abc import Mapping

from aiohttp import web
from msgspec import Struct

from nexrl.prometheus import CONTENT_TYPE, exposed
from nexrl_proxy.answering import Retries, json_response
from nexrl_proxy.attribution import require_admin
from nexrl_proxy.ended import Ended
from nexrl_proxy.errors import ApiError
from nexrl_proxy.models import Models
from nexrl_proxy.recorder import Recorder
from nexrl_proxy.refused import REFUSALS

FLUSH_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 600.0
LONGEST_TIMEOUT_S = 3600.0
ZEROS = dict.fromkeys(
    (
        *("calls", "completion_tokens", "unattributed", "inexact", "failed", "retried", "resumed"),
        *("spooled", "delivered", "rejected"),
    ),
    0,
)
GAUGES = ("sessions", "running", "pending", "waiting", "held", "healthy_engines")


class Access(Struct, frozen=True):
    """Who may call."""

    admin_key: str
    require_session: bool = False
    require_key: bool = False


MODELS: web.AppKey[Models] = web.AppKey("models", Models)
RECORDER: web.AppKey[Recorder] = web.AppKey("recorder", Recorder)
RETRIES: web.AppKey[Retries] = web.AppKey("retries", Retries)
ENDED: web.AppKey[Ended] = web.AppKey("ended", Ended)
ACCESS: web.AppKey[Access] = web.AppKey("access", Access)


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_post("/api/sessions/{attempt}/flush", flush)
    router.add_post("/api/hold", hold)
    router.add_post("/api/release", release)
    router.add_get("/api/stats", stats)
    router.add_get("/metrics", metrics)
    router.add_get("/health", health)


async def flush(request: web.Request) -> web.StreamResponse:
    """Wait until every call of an attempt is with ingest, and forget the session; with `end` its key is spent.

    Says how many calls are recorded, and how many requests got an error instead.
    """
    require_admin(request.headers, request.app[ACCESS].admin_key)
    attempt = request.match_info["attempt"]
    models, recorder = request.app[MODELS], request.app[RECORDER]
    timeout_s = _seconds(request, FLUSH_TIMEOUT_S)
    request.app[RETRIES].drop(attempt)
    if _flag(request, "end"):
        # Before what runs is waited for: nothing new may begin meanwhile.
        request.app[ENDED].add(attempt)
    try:
        async with asyncio.timeout(timeout_s):
            await models.settled(attempt)
            recorded = await recorder.flush(attempt, timeout_s)
    except TimeoutError as error:
        waiting = f"{recorder.pending(attempt)} spans not acknowledged, {models.running(attempt)} requests running"
        message = f"session {attempt!r}: {waiting} after {timeout_s:g} s; is ingest up? Flush again"
        raise ApiError(message, status=504, kind="timeout_error", code="flush_timeout") from error
    models.forget(attempt)
    refused = request.app[REFUSALS].of(attempt)
    return json_response({"calls": recorded.calls, "of_other_models": recorded.of_other_models, "refused": refused})


async def hold(request: web.Request) -> web.StreamResponse:
    """Let new requests wait; with `drain_s`, return once nothing runs, or say that something still does."""
    require_admin(request.headers, request.app[ACCESS].admin_key)
    pools = request.app[MODELS].pools
    pools.hold()
    drained = (
        await pools.drain(_seconds(request, DRAIN_TIMEOUT_S, name="drain_s")) if "drain_s" in request.query else False
    )
    return json_response({"held": True, "drained": drained, "running": pools.running})


async def release(request: web.Request) -> web.StreamResponse:
    """Let requests in again; `weight_version` tells it to engines that do not know theirs."""
    require_admin(request.headers, request.app[ACCESS].admin_key)
    given = request.query.get("weight_version", "")
    if given and not given.isdigit():
        raise ApiError(f"weight_version={given!r}: give a whole number", param="weight_version")
    request.app[MODELS].pools.release(weight_version=int(given) if given else None)
    return json_response({"held": False})


async def stats(request: web.Request) -> web.StreamResponse:
    require_admin(request.headers, request.app[ACCESS].admin_key)
    return json_response({**figures(request.app), **request.app[MODELS].pools.describe()})


async def metrics(request: web.Request) -> web.StreamResponse:
    """Return the counters as Prometheus reads them."""
    return as_metrics(figures(request.app))


def as_metrics(figures: Mapping[str, int]) -> web.Response:
    """Return figures in Prometheus' text format."""
    return web.Response(body=exposed("proxy", figures, GAUGES), headers={"content-type": CONTENT_TYPE})


async def health(_: web.Request) -> web.StreamResponse:
    return web.Response()


def figures(app: web.Application) -> dict[str, int]:
    """Return the counters and the state of this process."""
    models, recorder = app[MODELS], app[RECORDER]
    pools = models.pools.describe()
    now = {
        "sessions": models.sessions,
        "running": models.running(),
        "pending": recorder.pending(),
        "waiting": pools["waiting"],
        "held": int(pools["held"]),
        "healthy_engines": sum(engine["healthy"] for engine in pools["engines"]),
        "torn": recorder.torn,
        "folded": app[RETRIES].folded,
    }
    return {**ZEROS, **models.counted(), **recorder.counters, **now}


def _seconds(request: web.Request, default: float, *, name: str = "timeout_s") -> float:
    given = request.query.get(name, "")
    try:
        return min(float(given), LONGEST_TIMEOUT_S) if given else default
    except ValueError as error:
        raise ApiError(f"{name}={given!r}: give seconds as a number", param=name) from error


def _flag(request: web.Request, name: str) -> bool:
    given = request.query.get(name, "false")
    if given not in {"true", "false"}:
        raise ApiError(f"{name}={given!r}: give true or false", param=name)
    return given == "true"
