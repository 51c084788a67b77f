"""An OTLP receiver that keeps what it gets, and answers as it is told."""

import asyncio

import zstandard
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from nexrl.records import Call, encode
from nexrl.spans import call_of
from nexrl_ingest.assembly.sequences import parents_first


class StubIngest:
    """Set `status` to refuse; name a span in `poison` to reject it partially, or with `status_of_poison`."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.status = 200
        self.poison: set[str] = set()
        self.status_of_poison = 200
        self.batches: list[int] = []
        self.authorizations: set[str] = set()
        self.services: set[str] = set()
        self.app = web.Application(client_max_size=2**26, handler_args={"auto_decompress": False})
        self.app.router.add_post("/v1/traces", self.traces)
        self.app.router.add_get("/api/sessions/{id}/calls", self.read_back)
        self.status_of_reading = 200
        self.reads: list[str] = []
        """Sessions that were read back."""
        self.may_tell = asyncio.Event()
        """Readers wait for it."""
        self.may_tell.set()

    @property
    def calls(self) -> list[Call]:
        """Every call received, once, in order of arrival."""
        return list({span.span_id: call_of(span) for span in self.spans}.values())

    async def read_back(self, request: web.Request) -> web.Response:
        """Answer as ingest does."""
        session = request.match_info["id"]
        self.reads.append(session)
        await self.may_tell.wait()
        if self.status_of_reading != 200:
            return web.Response(status=self.status_of_reading, text="told to")
        calls = parents_first(call for call in self.calls if call.session == session)
        body = zstandard.compress(encode(calls), 1)
        return web.Response(body=body, content_type="application/x-msgpack", headers={"content-encoding": "zstd"})

    async def traces(self, request: web.Request) -> web.Response:
        self.authorizations.add(request.headers["authorization"])
        if self.status != 200:
            return web.Response(status=self.status, text="told to")
        assert request.headers["content-encoding"] == "zstd"
        body = ExportTraceServiceRequest.FromString(zstandard.decompress(await request.read()))
        [group] = body.resource_spans
        self.services |= {item.value.string_value for item in group.resource.attributes if item.key == "service.name"}
        spans = list(group.scope_spans[0].spans)
        self.batches.append(len(spans))
        bad = [span for span in spans if span.span_id.hex() in self.poison]
        if bad and self.status_of_poison != 200:
            return web.Response(status=self.status_of_poison, text="poison")
        self.spans += [span for span in spans if span not in bad]
        partial = ExportTracePartialSuccess(rejected_spans=len(bad), error_message="poison" if bad else "")
        answer = ExportTraceServiceResponse(partial_success=partial)
        return web.Response(body=answer.SerializeToString(), content_type="application/x-protobuf")
