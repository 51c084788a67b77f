"""The HTTP server: routes and handlers, each decode, act, reply.

What is stored and how is decided in `otlp.py`, `ledger.py` and `pool.py`; when it is durable in `store.py`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import zstandard
from aiohttp import web

from nexrl.errors import AccessError
from nexrl.keys import check_attempt_id
from nexrl.records import Attempt, Group, Outcome, Reward, decode, encode
from nexrl_ingest import assembly, ledger, otlp, pool, span_log, views
from nexrl_ingest.access import Caller, caller_of, require_admin, require_session
from nexrl_ingest.refusals import ForbiddenError, NotFoundError, RefusedError, TooLargeError
from nexrl_ingest.store import Store
from nexrl_ingest.waiting import Changes
from nexrl_ingest.wire import LeaseIds, LeaseRequest, RewardRequest

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
STORE = web.AppKey("store", Store)
ADMIN_KEY = web.AppKey("admin_key", str)
CHANGES = web.AppKey("changes", Changes)
MAX_BODY_BYTES = 64 * 1024 * 1024
"""Of a request's body, before and after decompression."""
TRACES = "/v1/traces"
_MESSAGEPACK = "application/msgpack"
_log = logging.getLogger(__name__)


def make_app(*, store: Store, admin_key: str) -> web.Application:
    """Return the server; whoever runs it closes the store afterwards."""
    # Bodies are decompressed in otlp.py: aiohttp would do it without zstd and without our bound.
    app = web.Application(middlewares=[_errors, _access], handler_args={"auto_decompress": False})
    app[STORE], app[ADMIN_KEY], app[CHANGES] = store, admin_key, Changes()
    app.on_shutdown.append(_stop_waiting)
    app.router.add_post(TRACES, _traces)
    app.router.add_put("/api/groups/{id}", _put_group)
    app.router.add_put("/api/attempts/{id}", _put_attempt)
    app.router.add_put("/api/attempts/{id}/outcome", _put_outcome)
    app.router.add_post("/api/groups/lease", _lease)
    app.router.add_post("/api/leases/ack", _ack)
    app.router.add_post("/api/leases/nack", _nack)
    app.router.add_get("/api/runs/{run}/groups", _groups)
    app.router.add_get("/api/sessions/{id}", _session)
    app.router.add_get("/api/sessions/{id}/calls", _calls)
    app.router.add_get("/api/sessions/{id}/trajectory", _trajectory)
    app.router.add_post("/api/sessions/{id}/rewards", _reward)
    return app


async def _traces(request: web.Request) -> web.Response:
    caller = _caller(request)
    body = await _body(request)
    # A large body takes a while to decode, and others are served meanwhile.
    batch = await asyncio.to_thread(lambda: otlp.batch(otlp.parse(body, request.content_type), caller.attempt))
    if batch.rows:
        await request.app[STORE].write(lambda connection: span_log.append(connection, batch.rows))
    for error in batch.errors:
        _log.warning("span rejected: %s", error)
    return web.Response(
        body=otlp.response(request.content_type, batch.errors), content_type=_otlp_type(request.content_type)
    )


async def _put_group(request: web.Request) -> web.Response:
    require_admin(_caller(request))
    group = await _record(request, Group)
    _same_id(request, group.id)
    await request.app[STORE].write(lambda connection: ledger.put_group(connection, group))
    return _reply({"id": group.id})


async def _put_attempt(request: web.Request) -> web.Response:
    require_admin(_caller(request))
    attempt = await _record(request, Attempt)
    _same_id(request, attempt.id)
    try:
        check_attempt_id(attempt.id)
    except AccessError as error:
        raise RefusedError(str(error)) from error
    await request.app[STORE].write(lambda connection: ledger.put_attempt(connection, attempt))
    return _reply({"id": attempt.id})


async def _put_outcome(request: web.Request) -> web.Response:
    require_admin(_caller(request))
    attempt, outcome = request.match_info["id"], await _record(request, Outcome)
    now_ns = time.time_ns()
    await request.app[STORE].write(lambda connection: ledger.put_outcome(connection, attempt, outcome, now_ns))
    request.app[CHANGES].announce()
    return _reply({"id": attempt})


async def _lease(request: web.Request) -> web.Response:
    require_admin(_caller(request))
    wanted = await _json(request, LeaseRequest)
    store, changes = request.app[STORE], request.app[CHANGES]
    grants = await changes.wait_for_grants(store, wanted, gone=lambda: request.transport is None)
    leased = await store.read(lambda connection: pool.training_groups(connection, grants))
    body = await asyncio.to_thread(lambda: zstandard.ZstdCompressor(level=1).compress(encode(leased)))
    return web.Response(body=body, content_type=_MESSAGEPACK, headers={"Content-Encoding": "zstd"})


async def _ack(request: web.Request) -> web.Response:
    require_admin(_caller(request))
    leases, now_ns = (await _json(request, LeaseIds)).leases, time.time_ns()
    await request.app[STORE].write(lambda connection: pool.ack(connection, leases, now_ns))
    return _reply({"leases": leases})


async def _nack(request: web.Request) -> web.Response:
    require_admin(_caller(request))
    leases, now_ns = (await _json(request, LeaseIds)).leases, time.time_ns()
    await request.app[STORE].write(lambda connection: pool.nack(connection, leases, now_ns))
    request.app[CHANGES].announce()
    return _reply({"leases": leases})


async def _groups(request: web.Request) -> web.Response:
    require_admin(_caller(request))
    run, now_ns = request.match_info["run"], time.time_ns()
    return _reply(await request.app[STORE].read(lambda connection: pool.groups(connection, run, now_ns)))


async def _session(request: web.Request) -> web.Response:
    session = _own_session(request)
    return _reply(await request.app[STORE].read(lambda connection: views.session(connection, session)))


async def _calls(request: web.Request) -> web.Response:
    """Return a session's calls as the proxy reads them back: parents before their children."""
    require_admin(_caller(request))
    session = request.match_info["id"]
    calls = await request.app[STORE].read(lambda connection: span_log.calls_of(connection, session))
    body = await asyncio.to_thread(
        lambda: zstandard.ZstdCompressor(level=1).compress(encode(assembly.parents_first(calls)))
    )
    return web.Response(body=body, content_type=_MESSAGEPACK, headers={"Content-Encoding": "zstd"})


async def _trajectory(request: web.Request) -> web.Response:
    session = _own_session(request)
    return _reply(await request.app[STORE].read(lambda connection: views.trajectory(connection, session)))


async def _reward(request: web.Request) -> web.Response:
    session, attempt = _own_session(request), _caller(request).attempt
    asked = await _json(request, RewardRequest)
    if attempt and asked.by not in {None, ledger.AGENT}:
        raise ForbiddenError(f"reward {asked.name!r} by {asked.by!r}: with an attempt key `by` is {ledger.AGENT!r}")
    by = asked.by or (ledger.AGENT if attempt else "trainer")
    reward = Reward(name=asked.name, value=asked.value, call=asked.call, by=by, at_ns=time.time_ns())
    store = request.app[STORE]
    # An attempt's key proves that the attempt exists; its spans may still be on their way.
    if not attempt and not await store.read(lambda connection: ledger.knows(connection, session)):
        raise NotFoundError(f"session {session!r} is unknown; a reward can be given once a span or an attempt names it")
    await store.write(lambda connection: ledger.put_reward(connection, session, reward, reward.at_ns))
    return _reply(reward)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as error:
        return _refused(request, error.status, error.type, str(error))
    except web.HTTPException as error:
        kind = NotFoundError.type if error.status == NotFoundError.status else RefusedError.type
        return _refused(request, error.status, kind, f"{request.method} {request.path}: {error.reason}")
    except Exception:  # noqa: BLE001 - a bug is answered and logged, and the others are served on
        _log.exception("%s %s failed", request.method, request.path)
        return _refused(request, 500, "internal", "ingest failed; its log says why")


@web.middleware
async def _access(request: web.Request, handler: Handler) -> web.StreamResponse:
    _caller(request)
    return await handler(request)


def _caller(request: web.Request) -> Caller:
    return caller_of(request.headers.get("Authorization", ""), request.app[ADMIN_KEY])


async def _stop_waiting(app: web.Application) -> None:
    app[CHANGES].close()


def _refused(request: web.Request, status: int, kind: str, message: str) -> web.Response:
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(status)
    if request.path == TRACES:
        content_type = _otlp_type(request.content_type)
        body = otlp.status(content_type, status, message)
        return web.Response(status=status, headers=headers, body=body, content_type=content_type)
    return web.json_response({"error": {"message": message, "type": kind}}, status=status, headers=headers)


async def _body(request: web.Request) -> bytes:
    received = bytearray()
    async for chunk in request.content.iter_any():
        received += chunk
        if len(received) > MAX_BODY_BYTES:
            raise TooLargeError(f"the body is larger than {MAX_BODY_BYTES} bytes: send less at a time")
    encoding = request.headers.get("Content-Encoding", "")
    return await asyncio.to_thread(otlp.decompress, bytes(received), encoding, MAX_BODY_BYTES)


async def _record(request: web.Request, kind: type[T]) -> T:
    try:
        return decode(await _body(request), kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RefusedError(f"the body is no {kind.__name__} in MessagePack: {error}") from error


async def _json(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await _body(request), type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RefusedError(f"the body is no {kind.__name__} in JSON: {error}") from error


def _own_session(request: web.Request) -> str:
    session = request.match_info["id"]
    require_session(_caller(request), session)
    return session


def _same_id(request: web.Request, given: str) -> None:
    if request.match_info["id"] != given:
        raise RefusedError(f"the body's id {given!r} is not the URL's {request.match_info['id']!r}; use one id")


def _otlp_type(content_type: str) -> str:
    return otlp.JSON if content_type == otlp.JSON else otlp.PROTOBUF


def _reply(record: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(record), content_type="application/json")
