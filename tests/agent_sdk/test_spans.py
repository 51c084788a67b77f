import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from nexrl.errors import PayloadError
from nexrl.records import Call, Float32s, Int32s, decode, encode
from nexrl.spans import attributes_of, call_of, expand, run_lengths, span_of

ids = st.lists(st.integers(0, 2**31 - 1), max_size=20).map(Int32s)
names = st.text(string.ascii_letters + "-_é ", max_size=12)
json_object = st.dictionaries(names, st.one_of(names, st.integers(-1000, 1000), st.none(), st.booleans()), max_size=3)


@st.composite
def calls(draw):
    completion = draw(ids)
    count = len(completion)
    return Call(
        id=draw(st.binary(min_size=8, max_size=8)).hex(),
        session=draw(names),
        parent=draw(st.none() | st.just("00ff00ff00ff00ff")),
        prompt_delta=draw(ids),
        completion=completion,
        logprobs=Float32s(draw(st.lists(st.floats(-50, 0, width=32), min_size=count, max_size=count))),
        weight_versions=Int32s(draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))),
        temperature=draw(st.floats(0, 2)),
        finish_reason=draw(st.sampled_from(["stop", "length", "abort"])),
        policy=draw(names),
        drift=draw(st.none() | st.just("template")),
        agent=draw(st.none() | names),
        group=draw(st.none() | names),
        model=draw(names),
        response=draw(names),
        messages=draw(st.lists(json_object, max_size=3)),
        tools=draw(st.none() | st.lists(json_object, max_size=2)),
        reply=draw(json_object),
        malformed_tool_call=draw(st.booleans()),
        started_ns=draw(st.integers(0, 2**63)),
        ended_ns=draw(st.integers(0, 2**63)),
    )


@given(calls())
def test_a_call_survives_the_span_bit_for_bit(call):
    wire = span_of(call, prompt_tokens=7).SerializeToString()
    assert call_of(Span.FromString(wire)) == call


@given(calls())
def test_a_call_survives_messagepack_bit_for_bit(call):
    assert decode(encode(call), Call) == call


@given(st.lists(st.integers(0, 4), max_size=40).map(Int32s))
def test_weight_versions_survive_run_length_coding(versions):
    assert expand(run_lengths(versions), len(versions)) == versions


def test_token_ids_travel_as_packed_bytes_never_as_arrays():
    call = Call(id="00" * 8, session="s", completion=Int32s(range(500)), logprobs=Float32s([0.0] * 500))
    span = span_of(call, prompt_tokens=0)
    assert len(span.SerializeToString()) < 500 * 8 + 1000
    assert attributes_of(span)["nexrl.tokens.completion"] == Int32s(range(500)).tobytes()


def test_a_payload_that_does_not_fit_together_is_refused():
    call = Call(id="11" * 8, session="s", completion=Int32s([1, 2]), logprobs=Float32s([0.0]))
    with pytest.raises(PayloadError, match="do not cover 2 tokens"):
        call_of(span_of(call, prompt_tokens=0))
    whole = Call(
        id="11" * 8, session="s", completion=Int32s([1, 2]), logprobs=Float32s([0.0]), weight_versions=Int32s([0, 0])
    )
    with pytest.raises(PayloadError, match="2 ids, 1 logprobs, 2 versions"):
        call_of(span_of(whole, prompt_tokens=0))


def test_somebody_elses_span_is_no_call():
    with pytest.raises(PayloadError, match="not a model call"):
        call_of(Span(name="GET /", span_id=b"12345678"))
