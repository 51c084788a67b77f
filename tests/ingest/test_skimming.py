"""Skimming a request: the same rows as official messages give, or none and those decide."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ingest_world import call, request_of
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from test_otlp_fuzz import GOOD, mutated, odd_calls

from nexrl import attributes as at
from nexrl import wire
from nexrl.spans import span_bytes
from nexrl_ingest.otlp import naming, skimming
from nexrl_ingest.otlp.soundness import is_sound
from nexrl_ingest.otlp.spans import batch, rows_of
from nexrl_ingest.refusals import ForbiddenError

FUZZ = settings(max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck))
TEXT = {"role": "user", "content": 'é \\ \n " 🦜'}
TOOLS = [{"type": "function", "function": {"name": "f"}}]
NAMES = [*naming.SESSION_NAMES, "gen_ai.tool.name", "é", "n" * 127, "n" * 128, "", at.PROMPT_DELTA]
VALUES = st.one_of(
    st.text(max_size=3),
    st.integers(0, 3).flatmap(lambda more: st.sampled_from(["x" * (size + more) for size in (0, 118, 124, 16_378)])),
    st.binary(max_size=300),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.lists(st.text(max_size=40), max_size=4),
)


def official(data: bytes, attempt: str | None):
    """Return what official messages say: rows, or why there are none."""
    try:
        found = batch(ExportTraceServiceRequest.FromString(data), attempt)
    except ForbiddenError as error:
        return str(error)
    return found.errors or [row for block in found.blocks for row in block.rows]


@st.composite
def steps(draw) -> bytes:
    """A request of an agent's own spans, with attributes of all kinds."""
    attributes = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5)
    spans = [
        wire.span(
            trace_id=b"t" * 16,
            span_id=draw(st.sampled_from([b"s" * 8, b"r" * 8, bytes(8), b"short"])),
            parent_span_id=b"",
            name=draw(st.text(max_size=3)),
            start_ns=1,
            end_ns=2,
            attributes=wire.span_attributes(draw(attributes)),
        )
        for _ in range(draw(st.integers(1, 3)))
    ]
    return wire.request(spans, service=draw(st.text(max_size=3)), scope="s")


def said_twice() -> bytes:
    """A step that becomes a call by an attribute that is written in an unusual way."""
    key = wire.field(1, b"foo") + wire.field(1, at.COMPLETION.encode())
    pair = key + wire.field(2, wire.any_value(b"\1\0\0\0"))
    ids = wire.field(1, b"t" * 16) + wire.field(2, b"s" * 8)
    return wire.request([ids + wire.field(9, pair)], service="s", scope="s")


@FUZZ
@given(st.one_of(odd_calls(), steps(), mutated(GOOD), mutated(request_of(Span(name="s")).SerializeToString())))
@example(said_twice())
def test_skimmed_rows_are_those_of_official_messages(data):
    for attempt in (None, "session-1"):
        try:
            said = official(data, attempt)
        except DecodeError:
            return
        rows = rows_of(data, attempt)
        assert rows is None or rows == said


def test_what_the_proxy_writes_is_skimmed_and_never_made_into_official_messages():
    named = {"model": "m", "response": "r", "reply": TEXT}
    made = [
        call([1], [2], **named, messages=[TEXT], sampling={"temperature": 1.0, "stop": ["a", "b"]}),
        call([], [3, 4], **named, parent="0" * 16, agent="critic", drift="edited", instructed=True, template={"a": 1}),
        call(range(5000), range(3000), **named, tools=TOOLS, messages=[TEXT | {"tool_calls": TOOLS}]),
    ]
    data = wire.request([span_bytes(one, prompt_tokens=1) for one in made], service="nexrl-proxy", scope="nexrl_proxy")
    spans = skimming.traces(data).resource_spans[0].scope_spans[0].spans
    assert [is_sound(skimming.attributes(span.attributes), ours=False) for span in spans] == [True] * 3
    assert rows_of(data, None) == official(data, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (at.LOGPROBS, AnyValue(bytes_value=b"\0" * 4)),
        (at.PROMPT_DELTA, AnyValue(bytes_value=b"\0" * 3)),
        (at.WEIGHT_VERSIONS, AnyValue(bytes_value=b"\1\0\0\0" * 2)),
        (at.INPUT_MESSAGES, AnyValue(string_value="[")),
        (at.OUTPUT_MESSAGES, AnyValue(string_value="[]")),
        (at.SESSION, AnyValue(string_value="")),
        (at.DIALECT, AnyValue(int_value=1)),
    ],
)
def test_a_call_that_cannot_be_read_back_has_no_row(name, value):
    request = request_of(call([1], [2, 3]))
    [attribute] = [one for one in request.resource_spans[0].scope_spans[0].spans[0].attributes if one.key == name]
    attribute.value.CopyFrom(value)
    assert rows_of(request.SerializeToString(), None) is None


def test_an_attempt_key_gets_no_row_for_a_model_call():
    assert rows_of(GOOD, "session-1") is None


def test_a_call_sampled_by_two_weight_versions_does_not_send_its_whole_request_the_long_way():
    data = request_of(call([1], [2, 3], weight_versions=[4, 5]), call([1], [2])).SerializeToString()
    assert rows_of(data, None) == official(data, None)


@pytest.mark.parametrize("size", [0, 1, *range(117, 130), 16_377, 16_384])
def test_texts_of_all_lengths_are_known_by_how_they_begin(size):
    pair = KeyValue(key="name", value=AnyValue(string_value="x" * size)).SerializeToString()
    assert skimming.attributes([pair]) == {b"name": b"x" * size}
    packed = KeyValue(key="name", value=AnyValue(bytes_value=b"\xff" * size)).SerializeToString()
    assert skimming.attributes([packed]) == {b"name": b"\xff" * size}


@pytest.mark.parametrize(
    "pair",
    [
        b"",
        b"\x0a",
        b"\x0a\x04name",
        wire.key_value("name", "text") + b"\x12\x00",
        wire.field(2, wire.any_value("text")) + wire.field(1, b"name"),
        wire.field(1, b"name") + wire.field(2, b"\x10\x01" + wire.any_value("text")),
        wire.field(1, b"name") + wire.field(2, b""),
    ],
    ids=lambda pair: pair[:24].hex() or "empty",
)
def test_an_attribute_written_in_an_unusual_way_is_odd(pair):
    with pytest.raises(skimming.OddError):
        skimming.attributes([pair])


def test_a_name_that_is_there_twice_is_odd():
    with pytest.raises(skimming.OddError):
        skimming.attributes([wire.key_value("name", "a"), wire.key_value("name", b"a")])
