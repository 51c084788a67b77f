"""POST /v1/traces: every wire format in, only whole requests acknowledged."""

import asyncio
import gzip
import json
import zlib

import pytest
import zstandard
from google.protobuf import json_format
from ingest_world import ADMIN_KEY, call, request_of
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from nexrl import attributes as at
from nexrl.spans import span_of
from nexrl_ingest.api import bodies
from nexrl_ingest.groups.ledger import knows
from nexrl_ingest.otlp import packing
from nexrl_ingest.span_log import calls_of, spans_at

AS_JSON = {"Content-Type": "application/json"}


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def zstd_of_unknown_length(data: bytes) -> bytes:
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(data) + stream.flush()


def otlp_json(*spans) -> dict:
    """The request as an OTLP/JSON sender writes it: ids in hexadecimal, enumerations as integers."""
    message = json_format.MessageToDict(request_of(*spans), use_integers_for_enums=True)
    for given, sent in zip(message["resourceSpans"][0]["scopeSpans"][0]["spans"], spans, strict=True):
        span = span_of(sent, prompt_tokens=0)
        given["traceId"], given["spanId"] = span.trace_id.hex(), span.span_id.hex()
    return message


def foreign(**attributes: str) -> Span:
    values = [
        KeyValue(key=key.replace("__", "."), value=AnyValue(string_value=text)) for key, text in attributes.items()
    ]
    return Span(trace_id=b"t" * 16, span_id=b"s" * 8, name="tool", attributes=values)


async def calls(ingest, session="session-1"):
    return await ingest.store.read(lambda connection: calls_of(connection, session))


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("identity", bytes),
        ("gzip", gzip.compress),
        ("gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("ZSTD", zstd),
        ("zstd", zstd_of_unknown_length),
        ("zstd", lambda data: zstd(data[:9]) + zstd(data[9:])),
        ("zstd", lambda data: zstd(b"") + zstd(data)),
        ("gzip", lambda data: gzip.compress(b"") + gzip.compress(data)),
    ],
)
async def test_a_call_comes_back_as_it_was_sent_under_every_encoding(ingest, encoding, compress):
    sent = call(range(5000), [7, 8], messages=[{"role": "user", "content": "hello"}], tools=[], reply={"content": "hi"})
    body = compress(request_of(sent).SerializeToString())
    assert await ingest.post(body, Content_Encoding=encoding) == (200, b"")
    assert await calls(ingest) == [sent]


async def test_otlp_json_has_hexadecimal_ids_and_base64_payloads_and_unknown_fields(ingest):
    sent = call([1], [2])
    message = otlp_json(sent) | {"someNewField": 1}
    status, body = await ingest.post(json.dumps(message).encode(), Content_Type="application/json; charset=utf-8")
    assert (status, json.loads(body)) == (200, {})
    assert await calls(ingest) == [sent]


async def test_a_span_sent_twice_is_acknowledged_twice_and_stored_once(ingest):
    sent = call([1], [2])
    await ingest.send(sent, sent)
    reply = await ingest.send(sent)
    assert not reply.HasField("partial_success")
    assert await calls(ingest) == [sent]


async def test_a_call_that_cannot_be_decoded_is_rejected_and_the_others_are_kept(ingest):
    good, bad = call([1], [2]), span_of(call([1], [2, 3]), prompt_tokens=1)
    for item in bad.attributes:
        if item.key == at.LOGPROBS:
            item.value.bytes_value = b"\0\0\0\0"
    reply = await ingest.send(bad, good)
    assert reply.partial_success.rejected_spans == 1
    assert "2 ids, 1 logprobs" in reply.partial_success.error_message
    assert await calls(ingest) == [good]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (at.SESSION, AnyValue(int_value=5)),
        (at.SESSION, AnyValue(string_value="")),
        (at.FINISH_REASONS, AnyValue(array_value={})),
        (at.FINISH_REASONS, AnyValue(array_value={"values": [AnyValue(int_value=1)]})),
        (at.TOOL_DEFINITIONS, AnyValue(string_value="3")),
        (at.EXACT, AnyValue(int_value=1)),
        (at.OUTPUT_MESSAGES, AnyValue(string_value="[]")),
        (at.INPUT_MESSAGES, AnyValue(string_value="[" * 100_000)),
        (at.WEIGHT_VERSIONS, AnyValue(string_value="text")),
    ],
)
async def test_a_call_with_an_attribute_of_the_wrong_kind_is_rejected_not_a_crash(ingest, name, value):
    span = span_of(call([1], [2], tools=[]), prompt_tokens=1)
    for item in span.attributes:
        if item.key == name:
            item.value.CopyFrom(value)
    assert (await ingest.send(span)).partial_success.rejected_spans == 1
    assert await ingest.stored() == 0


async def test_a_span_without_proper_ids_is_rejected(ingest):
    ids = [(b"t" * 16, b"s" * 7), (b"", b"s" * 8), (b"t" * 17, b"s" * 8), (bytes(16), b"s" * 8), (b"t" * 16, bytes(8))]
    reply = await ingest.send(*(Span(trace_id=trace_id, span_id=span_id) for trace_id, span_id in ids))
    assert reply.partial_success.rejected_spans == len(ids)
    assert "are no valid ids" in reply.partial_success.error_message
    assert await ingest.stored() == 0


@pytest.mark.parametrize(
    ("attributes", "session"),
    [
        ({"nexrl__session": "a", "gen_ai__conversation__id": "b"}, "a"),
        ({"session__id": "c", "gen_ai__conversation__id": "b"}, "b"),
        ({"session__id": "c"}, "c"),
        ({}, None),
    ],
)
async def test_any_span_is_stored_under_the_session_it_names(ingest, attributes, session):
    await ingest.send(foreign(**attributes))
    query = "SELECT session, is_call FROM spans"
    rows = await ingest.store.read(lambda connection: connection.fetch(query))
    assert rows == [(session, 0)]


SENT = request_of(call([1], [2])).SerializeToString()


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (400, b"no protobuf", {}),
        (400, b'{"resourceSpans": 3}', AS_JSON),
        (
            400,
            b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xy"}]}]}]}',
            {"Content-Type": "application/json"},
        ),
        (400, b"[" * 100_000, AS_JSON),
        (400, b"no gzip", {"Content-Encoding": "gzip"}),
        (400, gzip.compress(b"cut short", mtime=0)[:-9], {"Content-Encoding": "gzip"}),
        (400, zstd(b"cut short" * 99)[:-4], {"Content-Encoding": "zstd"}),
        (400, gzip.compress(SENT, mtime=0)[:-4], {"Content-Encoding": "gzip"}),
        (400, zstd(SENT)[:-1], {"Content-Encoding": "zstd"}),
        (400, zlib.compress(SENT)[:-4], {"Content-Encoding": "deflate"}),
        (400, SENT, {"Content-Encoding": "deflate"}),
        (400, gzip.compress(SENT, mtime=0) + b"rest", {"Content-Encoding": "gzip"}),
        (400, b"", AS_JSON),
        (415, SENT, {"Content-Encoding": "br"}),
        (415, SENT, {"Content-Encoding": "gzip, zstd"}),
        (415, b"{}", {"Content-Type": "application/octet-stream"}),
        (415, b"", {"Content-Type": "text/plain"}),
        (413, zstd(bytes(2_000_000)), {"Content-Encoding": "zstd"}),
        (413, gzip.compress(bytes(2_000_000), mtime=0), {"Content-Encoding": "gzip"}),
        (413, bytes(1_000_001), {}),
    ],
)
async def test_a_malformed_body_is_the_clients_error_and_records_nothing(ingest, monkeypatch, status, body, headers):
    monkeypatch.setattr(bodies, "MAX_BODY_BYTES", 1_000_000)
    answered, reply = await ingest.post(body, **{name.replace("-", "_"): value for name, value in headers.items()})
    assert answered == status
    if headers.get("Content-Type") == "application/json":
        assert json.loads(reply)["code"] == 3
    else:
        assert reply.startswith(b"\x08\x03\x12")  # google.rpc.Status: INVALID_ARGUMENT, then the message
    assert await ingest.stored() == 0


@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate", "zstd"])
async def test_an_empty_body_is_a_request_without_spans(ingest, encoding):
    assert await ingest.post(b"", Content_Encoding=encoding) == (200, b"")


async def test_thousands_of_tiny_frames_are_refused_not_worked_through(ingest):
    status, reply = await ingest.post(zstd(b"") * 2000, Content_Encoding="zstd")
    assert (status, reply[:2]) == (413, b"\x08\x03")


@pytest.mark.parametrize("name", ["a\0b", "s" * 1001])
async def test_a_session_no_store_could_name_is_rejected(ingest, name):
    reply = await ingest.send(foreign(session__id=name), foreign())
    assert reply.partial_success.rejected_spans == 1
    assert await ingest.stored() == 1


async def test_the_resource_and_the_scope_of_a_span_are_kept_with_it(ingest):
    message = request_of(call([1], [2]), foreign())
    scope = message.resource_spans[0].scope_spans[0]
    scope.scope.name, scope.schema_url = "my.tracer", "https://example.org/1"
    named = message.resource_spans[0].resource.attributes.add(key="service.name")
    named.value.string_value = "agent"
    assert await ingest.post(message.SerializeToString()) == (200, b"")

    def work(connection) -> list[ResourceSpans]:
        places = connection.fetch("SELECT block, place FROM spans ORDER BY seq")
        return [found.origin() for found in spans_at(connection, places)]

    bare = message.resource_spans[0]
    del bare.scope_spans[0].spans[:]
    assert await ingest.store.read(work) == [bare, bare]


async def test_ids_in_json_are_hexadecimal_in_either_case_and_attributes_called_like_them_are_not(ingest):
    span = foreign(session__id="s1")
    span.attributes.add(key="context").value.kvlist_value.values.add(key="traceId").value.string_value = "not hex"
    message = json_format.MessageToDict(request_of(span), use_integers_for_enums=True)
    [given] = message["resourceSpans"][0]["scopeSpans"][0]["spans"]
    given["traceId"], given["spanId"] = "AB" * 16, "cd" * 8
    assert (await ingest.post(json.dumps(message).encode(), Content_Type="application/json"))[0] == 200
    query = "SELECT trace_id, span_id FROM spans"
    assert await ingest.store.read(lambda connection: connection.fetch(query)) == [(b"\xab" * 16, b"\xcd" * 8)]


async def test_what_a_span_says_of_its_session_comes_before_what_its_resource_says(ingest):
    message = request_of(foreign(session__id="own"))
    message.resource_spans[0].resource.attributes.add(key="session.id").value.string_value = "resource"
    await ingest.post(message.SerializeToString())
    assert await ingest.store.read(lambda connection: connection.fetch("SELECT session FROM spans")) == [("own",)]


@pytest.mark.parametrize("unpack", [packing._gunzip, packing._inflate], ids=["gzip", "deflate"])
def test_a_bomb_is_unpacked_only_as_far_as_it_may_be(unpack):
    pack = {packing._gunzip: gzip.compress, packing._inflate: zlib.compress}[unpack]
    assert len(unpack(pack(bytes(10_000_000)), 1001)) == 1001


async def test_a_full_disk_is_503_and_acknowledges_nothing_until_there_is_room(ingest):
    # Many sessions: it is the index that finds no room.
    sent = request_of(*(call([1], [2], session=f"session-{number}") for number in range(500))).SerializeToString()

    def limit(pages: int):
        return lambda connection: connection.fetch(f"PRAGMA max_page_count = {pages}")

    await ingest.store.write(limit(1))
    status, reply = await ingest.post(sent)
    assert (status, reply[:2]) == (503, b"\x08\x0e")
    assert b"disk is full" in reply
    headers = ingest.admin() | {"Content-Type": "application/x-protobuf"}
    async with ingest.http.post(f"{ingest.url}/v1/traces", data=sent, headers=headers) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
    assert await ingest.stored() == 0
    await ingest.store.write(limit(1_000_000))
    assert (await ingest.post(sent))[0] == 200
    assert await ingest.stored() == 500


@pytest.mark.parametrize("compression", [Compression.Gzip, Compression.NoCompression])
async def test_the_opentelemetry_sdk_delivers_its_spans(ingest, compression):
    def export() -> None:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        exporter = OTLPSpanExporter(endpoint=f"{ingest.url}/v1/traces", headers=headers, compression=compression)
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(exporter))
        tracer = provider.get_tracer("agent")
        for _ in range(3):
            with tracer.start_as_current_span("execute_tool", attributes={"nexrl.session": "session-9"}):
                pass
        provider.shutdown()

    await asyncio.to_thread(export)
    assert await ingest.stored() == 3
    assert await ingest.store.read(lambda connection: knows(connection, "session-9"))


async def test_keys_decide_who_may_report_for_which_session(ingest):
    body = request_of(foreign(nexrl__session="mine")).SerializeToString()
    for key, status, code in [
        ({}, 401, 16),
        ({"Authorization": "Bearer wrong"}, 401, 16),
        ({"Authorization": "Basic " + ADMIN_KEY}, 401, 16),
        ({"Authorization": "Bearer nxr-mine.wrong"}, 401, 16),
        (ingest.own("other"), 403, 7),
    ]:
        answered, reply = await ingest.post(body, key)
        assert (answered, reply[:2]) == (status, bytes([8, code]))
    assert await ingest.stored() == 0
    assert (await ingest.post(body, ingest.own("mine")))[0] == 200
    assert await ingest.stored() == 1


async def test_an_agent_cannot_report_tokens_that_nobody_sampled(ingest):
    body = request_of(call([1], [2], session="mine")).SerializeToString()
    assert (await ingest.post(body, ingest.own("mine")))[0] == 403
    assert await ingest.stored() == 0
    assert (await ingest.post(body, ingest.admin()))[0] == 200


async def test_what_an_attempt_key_sends_belongs_to_its_attempt(ingest):
    body = request_of(foreign(gen_ai__conversation__id="thread-1")).SerializeToString()
    assert (await ingest.post(body, ingest.own("mine")))[0] == 200
    assert await ingest.store.read(lambda connection: knows(connection, "mine"))
    assert not await ingest.store.read(lambda connection: knows(connection, "thread-1"))
