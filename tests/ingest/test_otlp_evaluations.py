"""POST /v1/logs: evaluations become rewards of the session and call they point to; the rest is honestly rejected."""

import asyncio
import json

import pytest
from ingest_world import ADMIN_KEY, call, request_of
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

from nexrl.spans import span_bytes, trace_id_of

EVENT = "gen_ai.evaluation.result"
TRACE, STEP = b"t" * 16, b"s" * 8


def attribute(name: str, value) -> KeyValue:
    held = AnyValue(string_value=value) if isinstance(value, str) else AnyValue(double_value=value)
    return KeyValue(key=name.replace("__", "."), value=held)


def record(*, trace_id=b"", span_id=b"", event=EVENT, **attributes) -> LogRecord:
    given = {"gen_ai__evaluation__name": "relevance", "gen_ai__evaluation__score__value": 0.5} | attributes
    items = [attribute(name, value) for name, value in given.items() if value is not None]
    return LogRecord(time_unix_nano=7, event_name=event, trace_id=trace_id, span_id=span_id, attributes=items)


async def log(ingest, *records, key=None, service="judge-1"):
    """Send log records; return the partial success."""
    resource = Resource(attributes=[attribute("service.name", service)] if service else [])
    logs = [ResourceLogs(resource=resource, scope_logs=[ScopeLogs(log_records=records)])]
    body = ExportLogsServiceRequest(resource_logs=logs).SerializeToString()
    headers = {"Content-Type": "application/x-protobuf"} | (key or ingest.admin())
    async with ingest.http.post(f"{ingest.url}/v1/logs", data=body, headers=headers) as response:
        reply = await response.read()
        assert response.status == 200, reply
        return ExportLogsServiceResponse.FromString(reply).partial_success


async def rewards(ingest, session="session-1"):
    """Everything that is known of a session's rewards, but their ids."""
    status, found = await ingest.ask("GET", f"/api/sessions/{session}/rewards")
    return [{name: value for name, value in item.items() if name != "id"} for item in found] if status == 200 else []


def reward(**fields):
    defaults = {"name": "relevance", "value": 0.5, "call": None, "by": "judge-1", "at_ns": 7, "explanation": ""}
    return defaults | fields


async def test_an_evaluation_of_a_session_it_names_is_a_reward_with_its_judge_and_its_reasons(ingest):
    await ingest.send(call([1], [2]))
    said = record(nexrl__session="session-1", gen_ai__evaluation__explanation="to the point")
    labelled = record(gen_ai__conversation__id="session-1", gen_ai__evaluation__score__label="pass")
    assert not (await log(ingest, said, labelled)).rejected_log_records
    assert await rewards(ingest) == [reward(explanation="to the point"), reward(explanation="pass")]


@pytest.mark.parametrize("open_store", ["embedded", "postgres"], indirect=True)
async def test_an_evaluation_finds_its_session_by_trace_whichever_arrives_first(ingest):
    first = call([1], [2])
    trace = trace_id_of("session-1")
    await log(ingest, record(trace_id=trace, span_id=bytes.fromhex(first.id), gen_ai__evaluation__name="before"))
    assert await rewards(ingest) == []
    await ingest.send(first)
    await log(ingest, record(trace_id=trace, span_id=bytes.fromhex(first.id), gen_ai__evaluation__name="after"))
    await log(ingest, record(trace_id=trace, gen_ai__evaluation__name="whole"))
    assert await rewards(ingest) == [
        reward(name="before", call=first.id),
        reward(name="after", call=first.id),
        reward(name="whole"),
    ]


async def test_an_evaluation_of_a_reply_is_given_to_the_call_that_made_it(ingest):
    one, other = call([1], [2], response="chatcmpl-1"), call([1], [2], response="chatcmpl-2")
    await ingest.send(one, other)
    await log(ingest, record(nexrl__session="session-1", gen_ai__response__id="chatcmpl-2"))
    await log(ingest, record(nexrl__session="session-1", gen_ai__response__id="chatcmpl-9"))
    await ingest.send(call([1], [2], response="chatcmpl-3"), call([1], [2], response="chatcmpl-3"))
    await log(ingest, record(nexrl__session="session-1", gen_ai__response__id="chatcmpl-3"))
    assert [item["call"] for item in await rewards(ingest)] == [other.id, None, None]


async def test_an_evaluation_waits_for_the_call_it_points_to_although_its_trace_is_known(ingest):
    known, late = call([1], [2]), call([1], [2])
    await ingest.send(known)
    await log(ingest, record(trace_id=trace_id_of("session-1"), span_id=bytes.fromhex(late.id)))
    assert await rewards(ingest) == []
    await ingest.send(late)
    assert await rewards(ingest) == [reward(call=late.id)]
    waiting = await ingest.store.read(lambda connection: connection.fetch("SELECT id FROM judgements"))
    assert waiting == []


async def test_an_evaluation_of_an_agents_step_judges_the_session_that_the_trace_belongs_to(ingest):
    await log(ingest, record(trace_id=TRACE, span_id=STEP))
    await ingest.send(Span(trace_id=TRACE, span_id=b"other---", name="tool", attributes=[]))
    assert await rewards(ingest) == []
    in_trace = Span.FromString(span_bytes(call([1], [2]), prompt_tokens=1, trace_id=TRACE, parent_span=STEP))
    body = request_of(in_trace, Span(trace_id=TRACE, span_id=STEP, name="agent"))
    assert (await ingest.post(body.SerializeToString()))[0] == 200
    assert await rewards(ingest) == [reward()]


async def test_an_evaluation_delivered_again_counts_once(ingest):
    first = call([1], [2])
    said = record(nexrl__session="session-1", trace_id=trace_id_of("session-1"), span_id=bytes.fromhex(first.id))
    early = record(trace_id=trace_id_of("session-1"), span_id=bytes.fromhex(first.id))
    for _ in range(2):
        await log(ingest, said, early)
    await ingest.send(first)
    partial = await log(ingest, said, early)
    assert not partial.rejected_log_records
    assert len(await rewards(ingest)) == 2


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"event": "gen_ai.user.message"}, "'gen_ai.user.message' is not kept"),
        ({"event": ""}, "'' is not kept"),
        ({"gen_ai__evaluation__score__value": None, "gen_ai__evaluation__score__label": "bad"}, "finite number"),
        ({"gen_ai__evaluation__score__value": float("nan")}, "finite number"),
        ({"gen_ai__evaluation__score__value": "0.5"}, "finite number"),
        (
            {"gen_ai__evaluation__score__value": float("inf"), "nexrl__session": None, "trace_id": TRACE},
            "finite number",
        ),
        ({"gen_ai__evaluation__name": None}, "give a name of 1 to 200"),
        ({"gen_ai__evaluation__name": "n" * 201}, "give a name of 1 to 200"),
        ({"nexrl__session": None}, "names no session and no trace"),
        ({"nexrl__session": None, "trace_id": b"short"}, "no valid ids"),
    ],
    ids=[
        "a message",
        "unnamed",
        "only a label",
        "NaN",
        "a text",
        "infinite",
        "no name",
        "a long name",
        "of nothing",
        "a bad trace",
    ],
)
async def test_what_is_no_reward_is_rejected_with_the_reason_and_the_others_are_kept(ingest, fields, reason):
    await ingest.send(call([1], [2]))
    good = record(nexrl__session="session-1", gen_ai__evaluation__name="good")
    partial = await log(ingest, record(**({"nexrl__session": "session-1"} | fields)), good)
    assert partial.rejected_log_records == 1
    assert reason in partial.error_message
    assert [item["name"] for item in await rewards(ingest)] == ["good"]


async def test_an_attempt_key_judges_its_own_session_as_the_agent_and_no_other(ingest):
    await ingest.send(call([1], [2], session="mine"), call([1], [2], session="other"))
    await log(ingest, record(), key=ingest.own("mine"))
    await log(ingest, record(trace_id=trace_id_of("other"), gen_ai__evaluation__name="x"), key=ingest.own("mine"))
    assert await rewards(ingest, "mine") == [reward(by="agent"), reward(by="agent", name="x")]
    assert await rewards(ingest, "other") == []
    logs = [ResourceLogs(scope_logs=[ScopeLogs(log_records=[record(nexrl__session="other")])])]
    body = ExportLogsServiceRequest(resource_logs=logs).SerializeToString()
    headers = {"Content-Type": "application/x-protobuf"} | ingest.own("mine")
    async with ingest.http.post(f"{ingest.url}/v1/logs", data=body, headers=headers) as response:
        assert (response.status, (await response.read())[:2]) == (403, b"\x08\x07")


@pytest.mark.parametrize("service", ["", "trainer", "agent"])
async def test_no_service_can_call_itself_the_trainer_or_the_agent(ingest, service):
    await ingest.send(call([1], [2]))
    await log(ingest, record(nexrl__session="session-1"), service=service)
    assert [item["by"] for item in await rewards(ingest)] == ["evaluator"]


async def test_json_is_taken_too_and_answered_in_json(ingest):
    await ingest.send(call([1], [2]))
    item = {
        "timeUnixNano": "7",
        "traceId": trace_id_of("session-1").hex(),
        "attributes": [
            {"key": "event.name", "value": {"stringValue": EVENT}},
            {"key": "gen_ai.evaluation.name", "value": {"stringValue": "relevance"}},
            {"key": "gen_ai.evaluation.score.value", "value": {"intValue": "1"}},
        ],
    }
    other = {"body": {"kvlistValue": {"values": [{"key": "traceId", "value": {"stringValue": "free text"}}]}}}
    message = {"resourceLogs": [{"scopeLogs": [{"logRecords": [item, other]}]}]}
    status, reply = await ingest.ask("POST", "/v1/logs", json=message)
    assert (status, reply["partialSuccess"]["rejectedLogRecords"]) == (200, "1")
    assert await rewards(ingest) == [reward(value=1.0, by="evaluator")]


async def test_the_opentelemetry_sdk_logs_without_an_error(ingest, caplog):
    def export() -> None:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        provider = LoggerProvider()
        provider.add_log_record_processor(
            SimpleLogRecordProcessor(OTLPLogExporter(endpoint=f"{ingest.url}/v1/logs", headers=headers))
        )
        provider.get_logger("judge").emit(
            event_name=EVENT,
            timestamp=7,
            attributes={
                "gen_ai.evaluation.name": "relevance",
                "gen_ai.evaluation.score.value": 0.5,
                "nexrl.session": "session-1",
            },
        )
        provider.get_logger("chatter").emit(body="hello")
        provider.shutdown()

    await ingest.send(call([1], [2]))
    await asyncio.to_thread(export)
    assert [item["value"] for item in await rewards(ingest)] == [0.5]
    assert [item for item in caplog.records if item.name.startswith("opentelemetry")] == []


async def test_metrics_are_counted_and_said_not_to_be_kept(ingest):
    point = {"asInt": "1", "timeUnixNano": "1"}
    metrics = [
        {"name": "a", "gauge": {"dataPoints": [point, point]}},
        {"name": "b", "sum": {"dataPoints": [point], "aggregationTemporality": 2, "isMonotonic": True}},
        {"name": "c"},
    ]
    message = {"resourceMetrics": [{"scopeMetrics": [{"metrics": metrics}]}]}
    status, reply = await ingest.ask("POST", "/v1/metrics", json=message)
    assert (status, reply["partialSuccess"]["rejectedDataPoints"]) == (200, "3")
    assert "OTEL_METRICS_EXPORTER=none" in reply["partialSuccess"]["errorMessage"]
    assert await ingest.ask("POST", "/v1/metrics", json={}) == (200, {})


@pytest.mark.parametrize("path", ["/v1/logs", "/v1/metrics"])
async def test_other_signals_refuse_as_traces_do(ingest, path):
    for headers, data, status in [
        ({}, b"", 401),
        (ingest.admin() | {"Content-Type": "text/plain"}, b"", 415),
        (ingest.admin() | {"Content-Type": "application/x-protobuf"}, b"\xff", 400),
        (ingest.admin() | {"Content-Type": "application/json"}, b"[1]", 400),
    ]:
        async with ingest.http.post(ingest.url + path, data=data, headers=headers) as response:
            assert response.status == status
            reply = await response.read()
            assert json.loads(reply)["code"] if reply.startswith(b"{") else reply[:1] == b"\x08"
