"""Spans of other instrumentations, as their own SDKs wrote them, are understood; and each joins its session."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from nexrl_ingest.otlp.bodies import JSON, parse
from nexrl_ingest.steps.reading import Node, owned
from nexrl_ingest.steps.step import Usage
from nexrl_ingest.steps.understanding import understand

RECORDED = Path(__file__).with_name("recorded_spans")
ASKED = [
    {"role": "system", "content": "You know the weather."},
    {"role": "user", "content": "How is the weather in Bern?"},
]
ANSWER = "It is sunny in Bern."


def recorded(name: str):
    """The steps of one run of an agent with one tool: two calls of the model, the tool, the agent itself."""
    request = parse((RECORDED / f"{name}.json").read_bytes(), JSON, ExportTraceServiceRequest)
    return [
        understand(span, spans.resource)
        for spans in request.resource_spans
        for scope in spans.scope_spans
        for span in scope.spans
    ]


def span(**attributes) -> Span:
    def value(item) -> AnyValue:
        return AnyValue(int_value=item) if isinstance(item, int) else AnyValue(string_value=item)

    items = [KeyValue(key=name.replace("__", "."), value=value(item)) for name, item in attributes.items()]
    return Span(trace_id=b"t" * 16, span_id=b"s" * 8, name="span", attributes=items)


@pytest.mark.parametrize(
    ("name", "of_model", "of_others"),
    [
        ("openinference", "openinference", "openinference"),
        ("openllmetry", "gen_ai", "openllmetry"),
        ("openllmetry_numbered", "openllmetry", "openllmetry"),
    ],
)
def test_an_agent_run_reads_the_same_whichever_instrumentation_recorded_it(name, of_model, of_others):
    first, second, tool, agent = steps = recorded(name)
    assert [step.kind for step in steps] == ["llm", "llm", "tool", "agent"]
    assert [step.convention for step in steps] == [of_model, of_model, of_others, of_others]
    assert [(step.model, step.usage) for step in (first, second)] == [
        ("qwen3", Usage(input_tokens=21, output_tokens=7)),
        ("qwen3", Usage(input_tokens=22, output_tokens=7)),
    ]
    assert first.input == ASKED
    [reply] = first.output
    [wanted] = reply["tool_calls"]
    arguments = wanted["function"]["arguments"]
    assert (wanted["id"], wanted["function"]["name"]) == ("call_1", "weather")
    assert (msgspec.json.decode(arguments) if isinstance(arguments, str) else arguments) == {"city": "Bern"}
    assert second.input[:2] == ASKED
    assert (second.input[3]["role"], second.input[3]["content"]) == ("tool", "sunny")
    assert (second.output[0]["role"], second.output[0]["content"]) == ("assistant", ANSWER)
    assert (tool.name, tool.input, tool.output.strip('"')) == ("weather", {"city": "Bern"}, "sunny")
    assert agent.name == "weather_agent"
    assert {step.service for step in steps} == {"weather-agent"}
    assert {step.parent for step in (first, second, tool)} == {agent.id}
    assert agent.duration_ms == (agent.ended_ns - agent.started_ns) / 1e6 > 0


@pytest.mark.parametrize(
    ("attributes", "kind", "name", "given", "returned"),
    [
        (
            {
                "gen_ai__operation__name": "execute_tool",
                "gen_ai__tool__name": "search",
                "gen_ai__tool__call__arguments": '{"q": 1}',
                "gen_ai__tool__call__result": "found",
            },
            "tool",
            "search",
            {"q": 1},
            "found",
        ),
        (
            {"gen_ai__operation__name": "invoke_agent", "gen_ai__agent__name": "planner"},
            "agent",
            "planner",
            None,
            None,
        ),
        (
            {
                "gen_ai__operation__name": "chat",
                "gen_ai__system_instructions": '[{"type": "text", "content": "be brief"}]',
                "gen_ai__input__messages": '[{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]',
            },
            "llm",
            "span",
            [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
            None,
        ),
        (
            {
                "openinference__span__kind": "RETRIEVER",
                "input__value": "query",
                "retrieval__documents__0__document__content": "page",
            },
            "retriever",
            "span",
            "query",
            [{"content": "page"}],
        ),
        ({"openinference__span__kind": "GUARDRAIL"}, "other", "span", None, None),
        ({"traceloop__span__kind": "workflow", "traceloop__entity__name": "flow"}, "chain", "flow", None, None),
        ({"anything": "else"}, "other", "span", None, None),
    ],
)
def test_what_a_span_tells(attributes, kind, name, given, returned):
    step = understand(span(**attributes))
    assert (step.kind, step.name, step.input, step.output) == (kind, name, given, returned)


def test_a_failed_step_says_what_went_wrong():
    raised = KeyValue(key="exception.message", value=AnyValue(string_value="no such city"))
    failed = span()
    failed.status.code = Status.STATUS_CODE_ERROR
    failed.events.add(name="exception", attributes=[raised])
    assert understand(failed).error == "no such city"
    failed.status.message = "tool failed"
    assert understand(failed).error == "tool failed"
    assert understand(span()).error is None


def test_bytes_are_told_by_their_size():
    told = KeyValue(key="input.value", value=AnyValue(bytes_value=b"\xff" * 9))
    kind = KeyValue(key="openinference.span.kind", value=AnyValue(string_value="TOOL"))
    assert understand(Span(attributes=[told, kind])).input == "(9 bytes)"


def test_numbered_attributes_cost_what_they_hold_whatever_their_numbers():
    step = understand(span(llm__request__type="chat", gen_ai__prompt__999999999999__role="user"))
    assert step.input == [{"role": "user"}]
    step = understand(span(llm__request__type="chat", gen_ai__prompt__10__role="b", gen_ai__prompt__9__role="a"))
    assert [message["role"] for message in step.input] == ["a", "b"]


NAMES = st.sampled_from(
    [
        "gen_ai.operation.name",
        "openinference.span.kind",
        "traceloop.span.kind",
        "llm.request.type",
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "gen_ai.system_instructions",
        "gen_ai.usage.input_tokens",
        "input.value",
        "llm.input_messages",
        "llm.input_messages.0.message",
        "llm.input_messages.0.message.role",
        "llm.input_messages.0.message.contents.0.message_content.text",
        "llm.input_messages.0.message.tool_calls.0.tool_call",
        "llm.input_messages..message.x",
        "gen_ai.prompt.0",
        "gen_ai.prompt.0.tool_calls.0",
        "gen_ai.prompt.x.role",
        "retrieval.documents.0.document.content",
    ]
)
TEXTS = st.sampled_from(
    [
        "chat",
        "LLM",
        "agent",
        "",
        "[" * 3000,
        "[[[[]]]]",
        '[{"role": 1, "parts": [{"type": "text"}, 3, {"type": "tool_call_response"}]}]',
        '{"a": 1e400, "b": 99999999999999999999999999}',
        '[1, "\\ud83d"]',
        "[NaN]",
    ]
)
VALUES = st.recursive(
    st.builds(AnyValue)
    | st.builds(lambda value: AnyValue(string_value=value), TEXTS)
    | st.builds(lambda value: AnyValue(bytes_value=value), st.binary(max_size=8))
    | st.builds(lambda value: AnyValue(double_value=value), st.floats())
    | st.builds(lambda value: AnyValue(int_value=value), st.integers(-(2**63), 2**63 - 1))
    | st.builds(lambda value: AnyValue(bool_value=value), st.booleans()),
    lambda inner: (
        st.builds(lambda values: AnyValue(array_value={"values": values}), st.lists(inner, max_size=3))
        | st.builds(
            lambda values: AnyValue(kvlist_value={"values": [KeyValue(key="k", value=item) for item in values]}),
            st.lists(inner, max_size=3),
        )
    ),
    max_leaves=5,
)


CONVENTIONS = st.sampled_from(["gen_ai.operation.name", "openinference.span.kind", "llm.request.type"])


@given(CONVENTIONS, st.lists(st.builds(lambda name, value: KeyValue(key=name, value=value), NAMES, VALUES), max_size=8))
def test_whatever_attributes_hold_a_step_can_be_shown(convention, attributes):
    kind = KeyValue(key=convention, value=AnyValue(string_value="chat"))
    step = understand(Span(attributes=[*attributes, kind]), Resource())
    assert msgspec.json.decode(msgspec.json.encode(step))["kind"]


def node(id_: str, parent: str = "", session: str | None = None) -> Node:
    return Node(id_.encode(), parent.encode(), session)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("agent"), node("call", "agent", "s1"), node("tool", "agent")], ["agent", "call", "tool"]),
        ([node("call", "away", "s1"), node("beside", "elsewhere")], ["beside", "call"]),
        (
            [
                node("root"),
                node("one", "root"),
                node("call-1", "one", "s1"),
                node("two", "root"),
                node("call-2", "two", "s2"),
                node("tool-2", "call-2"),
            ],
            ["call-1", "one", "root"],
        ),
        ([node("run", "", "s1"), node("tool", "run"), node("other", "", "s2")], ["run", "tool"]),
        ([node("a", "b"), node("b", "a"), node("call", "a", "s1"), node("rival", "", "s2")], ["a", "b", "call"]),
    ],
    ids=["one session", "nothing known of parents", "two sessions", "named by an ancestor", "a cycle"],
)
def test_spans_of_a_trace_belong_to_the_session_they_surround_or_descend_from(nodes, expected):
    assert sorted(id_.decode() for id_ in owned(nodes, "s1")) == expected
    assert owned(reversed(nodes), "s1") == owned(nodes, "s1")
