"""Whatever is sent to the OTLP doors: a 2xx or a 4xx, never a crash, and the next good span is stored and shown."""

import asyncio
import gzip
import json
import re
import struct
import zlib

import pytest
import zstandard
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingest_world import call, request_of
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from nexrl import attributes as at
from nexrl.spans import span_of

PATHS = ["/v1/traces", "/v1/logs", "/v1/metrics"]
PROTOBUF, JSON = "application/x-protobuf", "application/json"
GOOD = request_of(call([1, 2], [3], messages=[{"role": "user", "content": "hi"}])).SerializeToString()
GOOD_JSON = json_format.MessageToJson(request_of(Span(name="s", trace_id=b"t" * 16, span_id=b"s" * 8))).encode()
LOG = json.dumps(
    {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"eventName": "gen_ai.evaluation.result", "attributes": []}]}]}]}
).encode()
NESTED = b""
for _ in range(200):
    NESTED = b"\x0a" + bytes([len(NESTED) & 0x7F]) + NESTED[:127]


def varint(value: int) -> bytes:
    coded = bytearray()
    while value > 0x7F:
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*coded, value])


@st.composite
def mutated(draw, source: bytes) -> bytes:
    """A good body, damaged in a few places, cut short, or repeated."""
    body = bytearray(source)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(body)))
        match draw(st.integers(0, 4)):
            case 0:
                body[place : place + 1] = draw(st.binary(max_size=3))
            case 1:
                del body[place:]
            case 2:
                body[place:place] = varint(draw(st.integers(0, 2**70)))
            case 3:
                body[place : place + draw(st.integers(1, 8))] = b""
            case _:
                body[place:place] = body[: draw(st.integers(0, 50))]
    return bytes(body)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["00" * 16, "ab" * 16, "ab" * 8, "0", "NaN", "\ud800", "a\0b", at.SESSION, at.COMPLETION])
)
KEYS = st.sampled_from(
    re.findall(
        r"\w+",
        "resourceSpans scopeSpans spans resource attributes key value stringValue intValue doubleValue bytesValue "
        "arrayValue kvlistValue values traceId spanId parentSpanId name kind status code links events scope "
        "startTimeUnixNano resourceLogs scopeLogs logRecords body eventName timeUnixNano resourceMetrics metrics",
    )
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
SHAPED = st.builds(
    lambda span: {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}, st.dictionaries(KEYS, TREES, max_size=6)
)
ODD = [
    AnyValue(),
    AnyValue(double_value=float("nan")),
    AnyValue(double_value=float("-inf")),
    AnyValue(bytes_value=b"\xff" * 8),
    AnyValue(int_value=-(2**63)),
    AnyValue(bool_value=True),
    AnyValue(string_value="\0"),
    AnyValue(string_value="text"),
    AnyValue(string_value="[]"),
    AnyValue(string_value='[{"role": "user", "content": 1e999, "big": 999999999999999999999999999}]'),
    AnyValue(string_value="[" * 5000),
    AnyValue(array_value={"values": [AnyValue(double_value=float("nan")), AnyValue(bytes_value=b"x")]}),
]


@st.composite
def odd_calls(draw) -> bytes:
    """A call some of whose attributes hold something else, or are missing."""
    names = {"parent": "0" * 16, "model": "m", "response": "r", "agent": "a", "group": "g", "drift": "edited"}
    span = span_of(call([1, 2], [3, 4], tools=[], **names), prompt_tokens=2)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(span.attributes) - 1))
        span.attributes[place].value.CopyFrom(draw(st.sampled_from(ODD)))
    if draw(st.booleans()):
        del span.attributes[draw(st.integers(0, len(span.attributes) - 1))]
    span.start_time_unix_nano = draw(st.sampled_from([0, 2**63, 2**64 - 1]))
    return request_of(span).SerializeToString()


BODIES = st.one_of(
    st.tuples(st.just(PROTOBUF), odd_calls()),
    st.tuples(st.just(PROTOBUF), st.binary(max_size=200)),
    st.tuples(st.just(PROTOBUF), mutated(GOOD)),
    st.tuples(st.just(JSON), mutated(GOOD_JSON)),
    st.tuples(st.just(JSON), mutated(LOG)),
    st.tuples(st.just(JSON), (TREES | SHAPED).map(lambda tree: json.dumps(tree).encode())),
    st.sampled_from(
        [
            (PROTOBUF, NESTED),
            (PROTOBUF, b"\x0a" + b"\xff" * 9 + b"\x01"),
            (PROTOBUF, b"\x0a\xff\xff\xff\xff\x0f"),
            (JSON, b'{"resourceSpans":' * 5000),
            (JSON, b"[" * 100_000 + b"]" * 100_000),
            (JSON, b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "\xff\xfe"}]}]}]}'),
        ]
    ),
)
PACKERS = st.sampled_from(
    [
        ("identity", bytes),
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("zstd", lambda body: zstandard.ZstdCompressor().compress(body)),
        ("zstd", bytes),
        ("gzip", lambda body: gzip.compress(body)[:-3]),
        ("unknown", bytes),
    ]
)


async def post(ingest, path: str, body: bytes, content_type: str, encoding: str = "identity") -> int:
    headers = ingest.admin() | {"Content-Type": content_type, "Content-Encoding": encoding}
    async with ingest.http.post(ingest.url + path, data=body, headers=headers) as response:
        reply = await response.read()
        if response.status >= 400 and content_type == JSON:
            assert set(json.loads(reply)) == {"code", "message"}
        return response.status


async def test_no_body_crashes_a_door_and_the_next_good_span_is_stored(ingest):
    loop = asyncio.get_running_loop()

    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(PATHS), BODIES, PACKERS)
    def attack(path, typed, packer):
        (content_type, body), (encoding, pack) = typed, packer
        sent = post(ingest, path, pack(body), content_type, encoding)
        status = asyncio.run_coroutine_threadsafe(sent, loop).result(20)
        assert 200 <= status < 300 or 400 <= status < 500, (status, path, content_type, encoding, body)

    await asyncio.to_thread(attack)
    before = await ingest.stored()
    await ingest.send(call([1], [2]))
    assert await ingest.stored() == before + 1
    for path in ("/api/sessions/session-1", "/api/sessions/session-1/trajectory"):
        assert (await ingest.ask("GET", path))[0] == 200


NAMES = [
    "input.value",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.usage.input_tokens",
    "gen_ai.tool.name",
    "llm.input_messages.0.message.content",
    "exception.message",
]


async def test_no_attribute_value_breaks_the_view_of_a_session(ingest):
    kinds = ("gen_ai.operation.name", "openinference.span.kind", "traceloop.span.kind")
    session = KeyValue(key=at.SESSION, value=AnyValue(string_value="session-1"))
    spans = [
        Span(
            trace_id=b"t" * 16,
            span_id=struct.pack(">Q", 1 + index * 100 + place),
            start_time_unix_nano=2**64 - 1,
            name="\0",
            attributes=[
                session,
                KeyValue(key=kind, value=AnyValue(string_value="tool")),
                *(KeyValue(key=name, value=value) for name in NAMES),
            ],
        )
        for index, kind in enumerate(kinds)
        for place, value in enumerate(ODD)
    ]
    assert not (await ingest.send(*spans)).partial_success.rejected_spans
    status, found = await ingest.ask("GET", "/api/sessions/session-1")
    assert (status, len(found["steps"])) == (200, len(spans))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (at.INPUT_MESSAGES, '[{"role": "user", "content": [1e999, 99999999999999999999999999, null]}]'),
        (at.OUTPUT_MESSAGES, '[{"role": "assistant", "content": {"a": [[[[]]]]}}]'),
        (at.SAMPLING, '{"temperature": 1e-400}'),
    ],
)
async def test_no_text_of_a_call_breaks_the_view_of_its_session(ingest, name, text):
    span = span_of(call([1], [2], sampling={"a": 1}), prompt_tokens=1)
    for item in span.attributes:
        if item.key == name:
            item.value.string_value = text
    await ingest.send(span)
    for path in ("/api/sessions/session-1", "/api/sessions/session-1/trajectory"):
        async with ingest.http.get(ingest.url + path, headers=ingest.admin()) as response:
            assert response.status in {200, 404}, await response.text()
