"""Agent-side spans are seen in the session of the model calls: by trace context, key, or the name they give it."""

import asyncio
import http.client
import json
from itertools import permutations
from urllib.parse import urlsplit

import pytest
from ingest_world import ADMIN_KEY, call
from opentelemetry import baggage, context
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from nexrl.keys import attempt_key
from nexrl.spans import span_bytes
from nexrl_ingest.groups.ledger import knows

TRACE = b"t" * 16


def span(id_: str, parent: str = "", trace: bytes = TRACE, **attributes: str) -> Span:
    items = [KeyValue(key=name.replace("__", "."), value=AnyValue(string_value=v)) for name, v in attributes.items()]
    ids = {"trace_id": trace, "span_id": id_.ljust(8, "-").encode(), "parent_span_id": parent.ljust(8, "-").encode()}
    return Span(name=id_, start_time_unix_nano=ord(id_[0]), attributes=items, **ids)


def in_trace(made, parent: str, trace: bytes = TRACE) -> Span:
    """The span of a call whose caller sent its trace context along."""
    return Span.FromString(span_bytes(made, prompt_tokens=1, trace_id=trace, parent_span=parent.ljust(8, "-").encode()))


async def steps(ingest, session="session-1"):
    status, found = await ingest.ask("GET", f"/api/sessions/{session}")
    assert status == 200, found
    return found["steps"]


@pytest.mark.parametrize("open_store", ["embedded", "postgres"], indirect=True)
async def test_spans_of_the_callers_trace_join_the_session_whatever_arrives_first(ingest):
    expected = ["agent", "chain", "tool"]
    for index, order in enumerate(permutations(range(3))):
        trace, session = bytes([65 + index]) * 16, f"session-{index}"
        sent = [
            in_trace(call([1], [2], session=session), "chain", trace),
            span("agent", trace=trace),
            span("chain", "agent", trace=trace),
        ]
        for item in order:
            await ingest.send(sent[item])
        await ingest.send(span("tool", "agent", trace=trace))
        found = await steps(ingest, session)
        assert [step["name"] for step in found] == expected
        assert (found[1]["parent"], found[1]["trace"]) == (found[0]["id"], trace.hex())


async def test_a_call_is_no_step_and_a_step_is_no_call(ingest):
    await ingest.send(call([1], [2]), span("tool", nexrl__session="session-1"))
    _, found = await ingest.ask("GET", "/api/sessions/session-1")
    assert (len(found["calls"]), [step["name"] for step in found["steps"]]) == (1, ["tool"])
    _, trajectory = await ingest.ask("GET", "/api/sessions/session-1/trajectory")
    assert [sum(sequence["loss_mask"]) for sequence in trajectory["sequences"]] == [1]


async def test_two_sessions_in_one_trace_keep_their_own_steps_and_share_what_is_above_them(ingest):
    await ingest.send(
        span("run"),
        span("a", "run"),
        in_trace(call([1], [2], session="one"), "a"),
        span("b", "run"),
        in_trace(call([1], [2], session="two"), "b"),
    )
    assert [step["name"] for step in await steps(ingest, "one")] == ["a", "run"]
    assert [step["name"] for step in await steps(ingest, "two")] == ["b", "run"]


async def test_spans_of_another_trace_are_not_drawn_in(ingest):
    await ingest.send(in_trace(call([1], [2]), "agent"), span("stranger", trace=b"u" * 16))
    assert await steps(ingest) == []


class CopiesBaggage(SpanProcessor):
    """As opentelemetry-processor-baggage does: what stands in the baggage becomes an attribute of each span."""

    def on_start(self, span, parent_context=None):
        for name, value in baggage.get_all(parent_context).items():
            span.set_attribute(name, value)


@pytest.mark.parametrize(
    ("key", "attributes", "carried"),
    [
        (attempt_key("session-1", ADMIN_KEY), {"gen_ai.conversation.id": "thread-1"}, {}),
        (ADMIN_KEY, {"session.id": "session-1"}, {}),
        (ADMIN_KEY, {"gen_ai.conversation.id": "session-1"}, {}),
        (ADMIN_KEY, {}, {"nexrl.session": "session-1"}),
    ],
    ids=["attempt key", "session.id", "conversation", "baggage"],
)
@pytest.mark.parametrize("compression", [Compression.Gzip, Compression.Deflate, Compression.NoCompression], ids=str)
async def test_the_opentelemetry_sdk_reports_steps(ingest, key, attributes, carried, compression):
    def run() -> None:
        headers = {"Authorization": f"Bearer {key}"}
        exporter = OTLPSpanExporter(endpoint=f"{ingest.url}/v1/traces", headers=headers, compression=compression)
        provider = TracerProvider(resource=Resource.create({"service.name": "weather"}))
        provider.add_span_processor(CopiesBaggage())
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        given = context.get_current()
        for name, value in carried.items():
            given = baggage.set_baggage(name, value, given)
        tracer = provider.get_tracer("agent")
        tool = attributes | {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}
        with tracer.start_as_current_span("execute_tool search", context=given, attributes=tool):
            pass
        provider.shutdown()

    await asyncio.to_thread(run)
    [step] = await steps(ingest)
    assert (step["kind"], step["name"], step["service"]) == ("tool", "search", "weather")


async def test_a_client_without_any_sdk_reports_a_step_by_hand(ingest):
    def post() -> tuple[int, bytes]:
        message = {
            "resourceSpans": [
                {
                    "scopeSpans": [
                        {
                            "spans": [
                                {
                                    "traceId": "5b8efff798038103d269b633813fc60c",
                                    "spanId": "eee19b7ec3c1b174",
                                    "name": "step by hand",
                                    "kind": 2,
                                    "startTimeUnixNano": "1544712660000000000",
                                    "endTimeUnixNano": 1544712661000000000,
                                    "attributes": [{"key": "nexrl.session", "value": {"stringValue": "session-1"}}],
                                    "status": {"code": 2, "message": "it broke"},
                                }
                            ]
                        }
                    ]
                }
            ]
        }
        connection = http.client.HTTPConnection(urlsplit(ingest.url).netloc, timeout=10)
        headers = {"Content-Type": "application/json"} | ingest.admin()
        connection.request("POST", "/v1/traces", json.dumps(message), headers)
        response = connection.getresponse()
        answered = response.status, response.read()
        connection.close()
        return answered

    assert await asyncio.to_thread(post) == (200, b"{}")
    [step] = await steps(ingest)
    assert (step["name"], step["error"], step["duration_ms"]) == ("step by hand", "it broke", 1000.0)
    assert (step["trace"], step["id"]) == ("5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174")


async def test_a_session_of_steps_alone_can_be_looked_at(ingest):
    await ingest.send(span("tool", session__id="outside"))
    assert await ingest.store.read(lambda connection: knows(connection, "outside"))
    assert [step["name"] for step in await steps(ingest, "outside")] == ["tool"]


async def test_an_own_session_shows_its_steps_to_its_own_key(ingest):
    await ingest.send(span("tool", nexrl__session="mine"), in_trace(call([1], [2], session="other"), "a", b"o" * 16))
    status, found = await ingest.ask("GET", "/api/sessions/mine", headers=ingest.own("mine"))
    assert (status, [step["name"] for step in found["steps"]]) == (200, ["tool"])
    assert (await ingest.ask("GET", "/api/sessions/other", headers=ingest.own("mine")))[0] == 403
