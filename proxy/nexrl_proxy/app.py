"""The HTTP server agents call: collaborators and a route table. A handler is decode, plan, act, reply.

Dialects decide shapes, `attribution` who called, `planning` what is asked, `sampling` what comes back. What operators
ask is `operating`, what agents ask of replies that they got `retrieving`. Served by `serve`, or by a test.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from nexrl_proxy.answering import RETRY_HEADER, Reply, Retries, Work, delivered, json_response
from nexrl_proxy.attribution import Caller, caller_of
from nexrl_proxy.dialects import Ask, Dialect, Opening
from nexrl_proxy.dialects.table import COUNTERS, DIALECTS, Counts
from nexrl_proxy.ended import Ended
from nexrl_proxy.errors import ApiError, broken, too_deep, too_large
from nexrl_proxy.limits import Limits
from nexrl_proxy.models import Models
from nexrl_proxy.operating import ACCESS, ENDED, MODELS, RECORDER, RETRIES, Access, add_routes
from nexrl_proxy.packing import unpacked
from nexrl_proxy.recorder import Recorder
from nexrl_proxy.refused import REFUSALS, Refusals
from nexrl_proxy.retrieving import Retrieving

PREFIXES = ("/v1", "/s/{attempt}/v1")
BODY_TIMEOUT_S = 60.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LIMITS: web.AppKey[Limits] = web.AppKey("limits", Limits)
MODEL: web.AppKey[str] = web.AppKey("model", str)
log = logging.getLogger(__name__)


def make_app(
    *,
    models: Models,
    recorder: Recorder,
    access: Access,
    model: str,
    limits: Limits | None = None,
) -> web.Application:
    """Return the proxy; `model` is the name that `/v1/models` lists for the own model."""
    limits = limits or Limits()
    app = web.Application(client_max_size=limits.body_bytes, middlewares=[errors_as_answers, errors_remembered])
    app[MODELS], app[RECORDER], app[RETRIES] = models, recorder, Retries()
    app[ACCESS], app[LIMITS], app[MODEL], app[ENDED], app[REFUSALS] = access, limits, model, Ended(), Refusals()
    retrieving = Retrieving(caller_of_request, model)
    for prefix in PREFIXES:
        for path, dialect in DIALECTS.items():
            app.router.add_post(prefix + path, completions(dialect))
        for path, dialect in COUNTERS.items():
            app.router.add_post(prefix + path, counted(dialect))
        retrieving.add_routes(app.router, prefix)
        app.router.add_get(f"{prefix}/models", listed)
        app.router.add_get(f"{prefix}/models/{{model:.+}}", model_named)
    app.router.add_get("/", reachable)
    add_routes(app.router)
    app.on_startup.append(_start)
    app.on_cleanup.append(_stop)
    return app


def completions(dialect: Dialect) -> Handler:
    """Return the handler of one dialect."""

    async def handle(request: web.Request) -> web.StreamResponse:
        caller = caller_of_request(request)
        body = await read(request)
        request.app[ENDED].refuse(caller.session)
        retries = request.app[RETRIES]
        work = retries.take(caller.session, body, request.headers.get(RETRY_HEADER))
        if work is None:
            request.app[LIMITS].admit(caller.session)
            work = await begun(request, dialect, dialect.decode(body), caller)
        return await delivered(request, caller.session, body, work, retries)

    return handle


async def begun(request: web.Request, dialect: Dialect, ask: Ask, caller: Caller) -> Work:
    """Plan a request and start to sample; raises ApiError."""
    asked = request.app[MODELS].named(ask.model)
    plan = await asked.planner.plan(ask, caller, dialect)
    # The attempt may have ended meanwhile, and been counted: from here to the start nothing waits.
    request.app[ENDED].refuse(caller.session)
    opening = Opening(
        response=plan.response,
        model=ask.model or request.app[MODEL],
        created=plan.created,
        prompt_tokens=plan.prompt_tokens,
    )
    reply = Reply(dialect.answer(ask, opening), stream=ask.stream)
    running, task = asked.sampler.start(plan, reply if ask.stream else None)
    return Work(reply, running, task)


def counted(dialect: Counts) -> Handler:
    """Return the handler that says how many tokens a request has."""

    async def handle(request: web.Request) -> web.StreamResponse:
        caller = caller_of_request(request)
        ask = dialect.decode_count(await read(request))
        tokens = await request.app[MODELS].named(ask.model).planner.count(ask, caller)
        return json_response(dialect.counted(tokens))

    return handle


async def read(request: web.Request) -> bytes:
    """Return the body; raises ApiError where it does not come, cannot be unpacked, or is too large."""
    most = request.app[LIMITS].body_bytes
    if (request.content_length or 0) > most:  # before a byte of it takes memory
        raise too_large(most)
    try:
        if request.content.is_eof():  # it came with the head, as most do
            body = await request.read()
        else:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await request.read()
    except TimeoutError as error:
        raise ApiError(f"the body did not arrive within {BODY_TIMEOUT_S:g} s: send it again", status=408) from error
    except web.HTTPRequestEntityTooLarge as error:
        raise too_large(most) from error
    return unpacked(body, request.headers.get("content-encoding", ""), most)


async def listed(request: web.Request) -> web.StreamResponse:
    caller_of_request(request)
    names = [request.app[MODEL], *request.app[MODELS].names]
    return json_response({"object": "list", "data": [_model(name) for name in names]})


async def model_named(request: web.Request) -> web.StreamResponse:
    """Any name that no other model has is answered by the own one, so any name is there."""
    caller_of_request(request)
    return json_response(_model(request.match_info["model"]))


async def reachable(_: web.Request) -> web.StreamResponse:
    """Answer clients that ask for `/` before anything else."""
    return web.Response(text="NexRL proxy: use /v1 as the base URL\n")


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "nexrl"}


@web.middleware
async def errors_as_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors in the shape of the route's dialect."""
    try:
        return await handler(request)
    except (ApiError, web.HTTPException, RecursionError) as error:
        return _answer(request, error)
    except ConnectionError:
        raise
    except Exception as error:  # a bug is logged and answered, and the others are served on
        log.exception("%s %s failed", request.method, request.path)
        return _answer(request, error)


@web.middleware
async def errors_remembered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Keep errors with the attempts that get them; operators ask as none."""
    try:
        return await handler(request)
    except ConnectionError:
        raise
    except Exception as error:
        if request.method == "POST" and not request.path.startswith("/api/"):
            with contextlib.suppress(ApiError):
                request.app[REFUSALS].note(caller_of_request(request).session, _told(request, error))
        raise


def _answer(request: web.Request, error: Exception) -> web.Response:
    told = _told(request, error)
    return json_response(_dialect(request).error(told), status=told.status, headers=_headers(error))


def _told(request: web.Request, error: Exception) -> ApiError:
    """Return what a client is told of what was raised."""
    match error:
        case ApiError():
            return error
        case web.HTTPException():
            told = f"{request.method} {request.path}: {error.reason}{_base_url_hint(request.path)}"
            return ApiError(told, status=error.status)
        case RecursionError():
            return too_deep()
        case _:
            return broken()


def _headers(error: Exception) -> dict[str, str] | None:
    match error:
        case ApiError(retry_after_s=int(seconds)):
            return {"retry-after": str(seconds)}
        case web.HTTPException() if "allow" in error.headers:
            return {"allow": error.headers["allow"]}
        case _:
            return None


def _base_url_hint(path: str) -> str:
    """Return what is wrong with the base URL of a client that asks for a path which is none."""
    if "/v1/v1/" in path:
        return "; this client writes /v1 itself: leave it out of its base URL"
    if "/v1/" not in path and any(path.endswith(route) for route in (*DIALECTS, *COUNTERS)):
        return "; the base URL of this client ends in /v1"
    return ""


def _dialect(request: web.Request) -> Dialect:
    path = request.path.partition("/v1")[2]
    return DIALECTS.get(path) or COUNTERS.get(path) or DIALECTS["/chat/completions"]


def caller_of_request(request: web.Request) -> Caller:
    """Return who called; raises ApiError."""
    access = request.app[ACCESS]
    return caller_of(
        prefix=request.match_info.get("attempt"),
        headers=request.headers,
        admin_key=access.admin_key,
        require_session=access.require_session,
        require_key=access.require_key,
    )


async def _start(app: web.Application) -> None:
    app[MODELS].start()
    app[RECORDER].start()


async def _stop(app: web.Application) -> None:
    """Let what is being sampled be recorded, as far as it ends soon, then deliver."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await app[MODELS].settled()
    await app[RECORDER].stop()
    await app[MODELS].stop()
