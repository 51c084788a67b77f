"""The HTTP server: collaborators and a route table. A handler is decode, act, reply; recording is `sampling`'s.

Dialects decide shapes, `attribution` who called, `sampling` what is sampled. Served by `serve`, or by a test.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from nexrl_proxy.attribution import Caller, caller_of, require_admin
from nexrl_proxy.dialects import Answer, Ask, Dialect, TokenText, Usage
from nexrl_proxy.dialects.chat import ChatDialect
from nexrl_proxy.errors import ApiError
from nexrl_proxy.recorder import Recorder
from nexrl_proxy.sampling import Outcomes, Plan, Sampler

LARGEST_REQUEST = 64 * 2**20
FLUSH_TIMEOUT_S = 60.0
STREAM_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}
DIALECTS: dict[str, Dialect] = {"/chat/completions": ChatDialect()}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Access(Struct, frozen=True):
    """Who may call."""

    admin_key: str
    require_session: bool = False


SAMPLER: web.AppKey[Sampler] = web.AppKey("sampler", Sampler)
RECORDER: web.AppKey[Recorder] = web.AppKey("recorder", Recorder)
ACCESS: web.AppKey[Access] = web.AppKey("access", Access)
MODEL: web.AppKey[str] = web.AppKey("model", str)


def make_app(*, sampler: Sampler, recorder: Recorder, access: Access, model: str) -> web.Application:
    """Return the proxy; `model` is the name that `/v1/models` lists."""
    app = web.Application(client_max_size=LARGEST_REQUEST, middlewares=[errors_as_answers])
    app[SAMPLER], app[RECORDER], app[ACCESS], app[MODEL] = sampler, recorder, access, model
    for prefix in ("/v1", "/s/{attempt}/v1"):
        for path, dialect in DIALECTS.items():
            app.router.add_post(prefix + path, completions(dialect))
        app.router.add_get(f"{prefix}/models", models)
    app.router.add_post("/api/sessions/{attempt}/flush", flush)
    app.router.add_get("/api/stats", stats)
    app.router.add_get("/health", health)
    app.on_startup.append(_start)
    app.on_cleanup.append(_stop)
    return app


def completions(dialect: Dialect) -> Handler:
    """Return the handler of one dialect."""

    async def handle(request: web.Request) -> web.StreamResponse:
        sampler = request.app[SAMPLER]
        caller = caller_of_request(request)
        ask = dialect.decode(await request.read())
        plan = sampler.plan(ask, caller)
        answer = dialect.answer(response=plan.response, model=shown_model(request, ask), created=int(time.time()))
        act = streamed if ask.stream else plain
        return await act(request, sampler, plan, answer)

    return handle


async def plain(request: web.Request, sampler: Sampler, plan: Plan, answer: Answer) -> web.StreamResponse:
    """Answer when everything is sampled; a client who leaves stops the sampling."""
    running, task = sampler.start(plan)
    try:
        outcomes = await asyncio.shield(task)
    except asyncio.CancelledError:
        _in_background(request.app, running.abort())
        raise
    choices = [choice for choice, _ in outcomes]
    tokens = [sampler.tokens(choice) for choice in choices] if plan.ask.logprobs else None
    return json_response(answer.whole(choices, total(outcomes), tokens))


async def streamed(request: web.Request, sampler: Sampler, plan: Plan, answer: Answer) -> web.StreamResponse:
    """Answer as tokens arrive; nothing is sent before the engine took the request, so refusals keep their status."""
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

    def emit(index: int, deltas: list[dict[str, Any]], tokens: list[TokenText]) -> None:
        shown = tokens if plan.ask.logprobs else None
        if shown and not deltas:
            deltas = [{}]
        for place, delta in enumerate(deltas):
            pieces.put_nowait(answer.delta(index, delta, shown if place == 0 else None))

    running, task = sampler.start(plan, emit)
    task.add_done_callback(lambda _: pieces.put_nowait(None))
    try:
        piece = await pieces.get()
        if piece is None and (error := task.exception()):
            raise error  # there is still a status to answer with
        response = web.StreamResponse(headers=STREAM_HEADERS)
        await response.prepare(request)
        for index in range(plan.ask.n):
            await response.write(answer.first(index))
        while piece is not None:
            await response.write(piece)
            piece = await pieces.get()
        await response.write(closing(task, plan, answer))
        await response.write_eof()
    except (asyncio.CancelledError, ConnectionError):
        _in_background(request.app, running.abort())
        raise
    return response


def closing(task: "asyncio.Task[Outcomes]", plan: Plan, answer: Answer) -> bytes:
    """Return what ends a stream: the finish reasons and the usage, or the error."""
    error = task.exception()
    if isinstance(error, ApiError):
        return answer.failed(error)
    outcomes = task.result()
    last = b"".join(answer.last(index, choice) for index, (choice, _) in enumerate(outcomes))
    return last + answer.end(total(outcomes) if plan.ask.include_usage else None)


def total(outcomes: Outcomes) -> Usage:
    """Return a request's usage: its prompt counts once, its completions all."""
    usages = [usage for _, usage in outcomes]
    return Usage(
        prompt_tokens=usages[0].prompt_tokens,
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=max(usage.cached_tokens for usage in usages),
    )


async def models(request: web.Request) -> web.StreamResponse:
    caller_of_request(request)
    listed = {"id": request.app[MODEL], "object": "model", "created": 0, "owned_by": "nexrl"}
    return json_response({"object": "list", "data": [listed]})


async def flush(request: web.Request) -> web.StreamResponse:
    """Wait until every call of an attempt is with ingest, and forget the session."""
    require_admin(request.headers, request.app[ACCESS].admin_key)
    attempt = request.match_info["attempt"]
    sampler, recorder = request.app[SAMPLER], request.app[RECORDER]
    timeout_s = _timeout(request)
    try:
        async with asyncio.timeout(timeout_s):
            await sampler.settled(attempt)
            calls = await recorder.flush(attempt, timeout_s)
    except TimeoutError as error:
        running = len(sampler.active.get(attempt, ()))
        waiting = f"{recorder.pending(attempt)} spans not acknowledged, {running} requests running"
        message = f"session {attempt!r}: {waiting} after {timeout_s:g} s; is ingest up? Flush again"
        raise ApiError(message, status=504, kind="timeout_error", code="flush_timeout") from error
    sampler.sessions.forget(attempt)
    return json_response({"calls": calls})


async def stats(request: web.Request) -> web.StreamResponse:
    require_admin(request.headers, request.app[ACCESS].admin_key)
    sampler, recorder = request.app[SAMPLER], request.app[RECORDER]
    zeros = dict.fromkeys(("calls", "unattributed", "spooled", "delivered", "rejected"), 0)
    now = {
        "sessions": len(sampler.sessions),
        "running": sum(map(len, sampler.active.values())),
        "pending": recorder.pending(),
        "torn": recorder.torn,
    }
    return json_response({**zeros, **sampler.counters, **recorder.counters, **now})


async def health(_: web.Request) -> web.StreamResponse:
    return web.Response()


@web.middleware
async def errors_as_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors in the shape of the route's dialect."""
    dialect = DIALECTS.get(request.path.partition("/v1")[2], DIALECTS["/chat/completions"])
    try:
        return await handler(request)
    except ApiError as error:
        return json_response(dialect.error(error), status=error.status)
    except web.HTTPException as error:
        described = ApiError(f"{request.method} {request.path}: {error.reason}", status=error.status)
        return json_response(dialect.error(described), status=error.status)


def caller_of_request(request: web.Request) -> Caller:
    """Return who called; raises ApiError."""
    access = request.app[ACCESS]
    return caller_of(
        prefix=request.match_info.get("attempt"),
        headers=request.headers,
        admin_key=access.admin_key,
        require_session=access.require_session,
    )


def shown_model(request: web.Request, ask: Ask) -> str:
    """Return the model name a reply shows: the one asked for, whatever it is."""
    return ask.model or request.app[MODEL]


def json_response(body: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def _timeout(request: web.Request) -> float:
    given = request.query.get("timeout_s", "")
    try:
        return min(float(given), 3600.0) if given else FLUSH_TIMEOUT_S
    except ValueError as error:
        raise ApiError(f"timeout_s={given!r}: give seconds as a number", param="timeout_s") from error


BACKGROUND: web.AppKey[set["asyncio.Task[None]"]] = web.AppKey("background", set)


def _in_background(app: web.Application, work: Any) -> None:
    task = asyncio.ensure_future(work)
    app[BACKGROUND].add(task)
    task.add_done_callback(app[BACKGROUND].discard)


async def _start(app: web.Application) -> None:
    app[BACKGROUND] = set()
    app[RECORDER].start()


async def _stop(app: web.Application) -> None:
    """Let what is being sampled be recorded, as far as it ends soon, then deliver."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            for session in list(app[SAMPLER].active):
                await app[SAMPLER].settled(session)
    await app[RECORDER].stop()
