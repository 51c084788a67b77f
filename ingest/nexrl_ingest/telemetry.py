"""OTLP/HTTP: `/v1/traces`, `/v1/logs` and `/v1/metrics`; decode, keep, and answer in the request's encoding.

What is kept and why is decided in `otlp`; 200 means durable. What is rejected is counted in a partial success, which
senders must not repeat; 503 asks them to come again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from aiohttp import web
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from nexrl_ingest import blocks, span_log
from nexrl_ingest.access import REPORTERS, Caller, caller_of, require
from nexrl_ingest.api import bodies
from nexrl_ingest.api.context import ADMIN_KEY, FIGURES, STORE
from nexrl_ingest.api.openapi_otlp import LOGS, METRICS, TRACES
from nexrl_ingest.otlp import bodies as otlp
from nexrl_ingest.otlp import evaluations, metrics, spans
from nexrl_ingest.otlp.packing import decompress
from nexrl_ingest.refusals import TooLargeError
from nexrl_ingest.sessions import judging
from nexrl_ingest.store import Connection

T = TypeVar("T")
MessageT = TypeVar("MessageT", bound=Message)
SMALL_BYTES = 1024 * 1024
"""Of a request that is decoded at once; for a larger one a thread takes the time, and others are served meanwhile."""
_log = logging.getLogger(__name__)


def add_routes(app: web.Application) -> None:
    app.router.add_post(TRACES, _traces)
    app.router.add_post(LOGS, _logs)
    app.router.add_post(METRICS, _metrics)


def serves(request: web.Request) -> bool:
    """Whether a request is OTLP, whose errors have a shape of their own."""
    return request.path in {TRACES, LOGS, METRICS}


def refused(request: web.Request, status: int, message: str, headers: Mapping[str, str] | None) -> web.Response:
    content_type = otlp.reply_type(request.content_type)
    body = otlp.status(content_type, status, message)
    return web.Response(status=status, headers=headers, body=body, content_type=content_type)


async def _traces(request: web.Request) -> web.Response:
    attempt = _reporter(request).attempt
    batch = await _unpacked(request, lambda body: spans.received(body, attempt))
    now_ns = time.time_ns()

    def keep(connection: Connection) -> None:
        for block in batch.blocks:
            span_log.append(connection, block, now_ns)
        judging.settle(connection, batch.traces, now_ns)

    if batch.blocks:
        await request.app[STORE].write(keep, exclusive=False)
    figures = request.app[FIGURES]
    figures["spans"] += sum(len(block.rows) for block in batch.blocks)
    figures["rejected_spans"] += len(batch.errors)
    return _answer(request, spans.response(batch.errors), batch.errors)


async def _logs(request: web.Request) -> web.Response:
    attempt = _reporter(request).attempt
    found, errors = await _unpacked(
        request, lambda body: evaluations.judgements(_parsed(body, ExportLogsServiceRequest), attempt)
    )
    now_ns = time.time_ns()

    def keep(connection: Connection) -> list[str]:
        return [why for judgement in found if (why := judging.give(connection, judgement, now_ns))]

    if found:
        errors += await request.app[STORE].write(keep, tells=True)
    return _answer(request, evaluations.response(errors), errors)


async def _metrics(request: web.Request) -> web.Response:
    _reporter(request)
    points = await _unpacked(request, lambda body: metrics.count(_parsed(body, ExportMetricsServiceRequest)))
    return _answer(request, metrics.response(points), [])


def _reporter(request: web.Request) -> Caller:
    caller = caller_of(request.headers.get("Authorization", ""), request.app[ADMIN_KEY])
    require(caller, REPORTERS)
    return caller


async def _unpacked(request: web.Request, use: Callable[[otlp.Body], T]) -> T:
    """Decompress a request and use it, with its bytes as they came where those can be stored."""
    received = await bodies.received(request)
    request.app[FIGURES]["received_bytes"] += len(received)
    encoding, content_type = request.headers.get("Content-Encoding", ""), request.content_type

    def work(limit: int) -> T:
        plain = decompress(received, encoding, limit)
        as_it_came = content_type == otlp.PROTOBUF and encoding == "zstd" and blocks.fits(received, len(plain))
        return use(otlp.Body(plain, content_type, received if as_it_came else None))

    # JSON takes ten times as long as protobuf.
    if content_type == otlp.PROTOBUF and len(received) <= SMALL_BYTES:
        with contextlib.suppress(TooLargeError):
            return work(SMALL_BYTES)
    return await asyncio.to_thread(work, bodies.MAX_BODY_BYTES)


def _parsed(body: otlp.Body, kind: type[MessageT]) -> MessageT:
    return otlp.parse(body.plain, body.content_type, kind)


def _answer(request: web.Request, reply: Message, errors: list[str]) -> web.Response:
    if errors:
        _log.warning("%s: %d rejected: %s", request.path, len(errors), otlp.summary(errors))
    content_type = otlp.reply_type(request.content_type)
    return web.Response(body=otlp.written(reply, content_type), content_type=content_type)
